"""Reports of a run: the log, a progress line, TensorBoard, and spoken samples."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.contract.errors import MissingExtra
from wishbone.core.speak import pipeline
from wishbone.core.system.build import build_system
from wishbone.core.train.distributed.processes import ProcessGroup
from wishbone.core.train.recipe import Recipe
from wishbone.core.train.run_folder import RunFolder
from wishbone.core.train.time_budget import Fit


class Logger:
    """Reports of the leading process; the others are silent."""

    def __init__(self, recipe: Recipe, run: RunFolder, group: ProcessGroup, step: int) -> None:
        self.recipe = recipe
        self.run = run
        self.leads = group.leads
        self._saved_at = time.monotonic()
        self._first, self._began = step, time.monotonic()
        self.steps: int | None = recipe.steps
        """Of the whole run; None while they are not known yet."""
        self._board = _tensorboard(run.folder) if recipe.tensorboard and group.leads else None

    def training(self, step: int, tally: Any, rate: float, elapsed: float) -> None:
        """Log the steps since the last line."""
        if not self.leads:
            return
        speed = tally.positions / max(1e-9, tally.seconds)
        entry = {
            "step": step,
            "loss": tally.mean,
            "targets": int(tally.count),
            "rate": rate,
            **tally.parts,
            "positions_per_second": round(speed, 1),
            "elapsed": round(elapsed, 2),
        }
        self.run.log(entry)
        self._scalars(step, {"loss": tally.mean, "rate": rate, "norm": tally.parts.get("norm", 0)})
        seconds_per_step = (time.monotonic() - self._began) / max(1, step - self._first)
        remaining = "time left not known yet"
        if self.steps is not None:
            remaining = f"{_clock((self.steps - step) * seconds_per_step)} left"
        self._say(
            f"step {step}/{self.steps or '?'}  loss {tally.mean:.4f}  rate {rate:.2e}"
            f"  norm {tally.parts.get('norm', 0):.2f}  {speed:.0f} positions/s  {remaining}"
        )

    def fitted(self, fit: Fit) -> None:
        """Tell how many steps the time is enough for."""
        self.steps = fit.steps
        self._say(
            f"{fit.minutes:g} minutes are enough for {fit.steps} of at most {self.recipe.steps}"
            f" steps on this machine; the warm-up takes {fit.warmup_steps}"
        )

    def held_out(self, step: int, loss: float) -> None:
        """Log the held-out loss."""
        if self.leads and loss == loss:
            self.run.log({"step": step, "held_out": loss})
            self._scalars(step, {"held_out": loss})
            self._say(f"step {step}/{self.steps or '?'}  held-out loss {loss:.4f}")

    def checkpoint_due(self, step: int) -> bool:
        """Return whether enough steps or minutes have passed since the last checkpoint."""
        every, minutes = self.recipe.checkpoint_every, self.recipe.checkpoint_minutes
        late = 0 < minutes * 60 < time.monotonic() - self._saved_at
        return late or bool(every and step % every == 0)

    def saved(self, folder: Path) -> None:
        """Note that a checkpoint was written."""
        self._saved_at = time.monotonic()
        self._say(f"wrote {folder}")

    def samples(self, folder: Path, weights: Mapping[str, Tensor], system: Any) -> None:
        """Speak the samples at checkpoint ``folder`` with the language model's ``weights``."""
        for number, sentence in enumerate(self.recipe.samples):
            target = self.run.folder / "samples" / f"{folder.name}-{number}.wav"
            try:
                speak(weights, system, sentence, target)
            # a young model may speak anything or nothing; that must not stop its training
            except Exception as error:
                self._say(f"no sample: {type(error).__name__}: {error}")
                continue
            self._say(f"wrote {target}")

    def close(self) -> None:
        """Flush TensorBoard's events."""
        if self._board:
            self._board.close()

    def _say(self, text: str) -> None:
        if self.leads:
            print(text, file=sys.stderr, flush=True)

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def speak(weights: Mapping[str, Tensor], system: Any, sentence: str, target: Path) -> None:
    """Speak a sentence into a WAV file, with weights in training and the system's own decoder."""
    speaking = build_system({key: value for key, value in system.items() if key != "weights"})
    speaking.model.load_state_dict(dict(weights))
    target.parent.mkdir(parents=True, exist_ok=True)
    pipeline.say(speaking, sentence).save(target, overwrite=True)


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra(
            "'tensorboard: true' needs the package tensorboard.",
            "the training recipe",
            "Run: pip install 'wishbone-tts[train]', or leave it out: log.jsonl is always written.",
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
