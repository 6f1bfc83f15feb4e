"""Reports of a run: the log, a progress line, TensorBoard, and spoken samples."""

from __future__ import annotations

import json
import sys
import time
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.errors import ConfigError, MissingExtra
from wishbone.core.speak import text_to_speech
from wishbone.core.system.build import build_system
from wishbone.core.train.distributed.processes import ProcessGroup
from wishbone.core.train.recipe import Recipe
from wishbone.core.train.run_folder import RunFolder
from wishbone.core.train.time_budget import Fit


class ReferenceCurve:
    """Held-out losses of another run at its steps, to see where a run stands beside it."""

    def __init__(self, losses: Mapping[int, float], data_hash: str = "") -> None:
        """``losses`` in nats per target by step; ``data_hash`` of the tokens it learned from."""
        self._losses, self._steps = dict(losses), sorted(losses)
        self.data_hash = data_hash

    @classmethod
    def read(cls, name: str) -> ReferenceCurve:
        """Read a run's folder, or a file of JSON with ``held_out`` {step: loss} and ``data_hash``.

        Raises ``ConfigError`` where neither is there, or no held-out loss is in it.
        """
        path = Path(name) if Path(name).exists() else weights_folder(name)
        try:
            losses, data_hash = _of_run(path) if path.is_dir() else _of_file(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"The reference cannot be read: {type(error).__name__}: {error}.",
                f"reference: {name}",
                "Name the folder of a run, or a bundled curve such as train/curves/NAME.json.",
            ) from None
        if not losses:
            raise ConfigError(
                "The reference has no held-out loss yet.",
                str(path),
                "Name a run that has measured one; evaluate_every says how often it does.",
            )
        return cls(losses, data_hash)

    def at(self, step: int) -> float | None:
        """Return the loss at a step, on a line between two that were measured; None outside."""
        place = bisect_left(self._steps, step)
        if place == len(self._steps) or step < self._steps[0]:
            return None
        later = self._steps[place]
        if later == step:
            return self._losses[step]
        before = self._steps[place - 1]
        share = (step - before) / (later - before)
        return (1 - share) * self._losses[before] + share * self._losses[later]


def _of_run(folder: Path) -> tuple[dict[int, float], str]:
    from omegaconf import OmegaConf

    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "held_out" in row]
    losses = {int(row["step"]): float(row["held_out"]) for row in rows}
    return losses, str(OmegaConf.load(folder / "config.yaml").get("data_hash", ""))


def _of_file(path: Path) -> tuple[dict[int, float], str]:
    values = json.loads(path.read_text(encoding="utf-8"))
    losses = {int(step): float(loss) for step, loss in values["held_out"].items()}
    return losses, str(values.get("data_hash", ""))


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
        self._reference = ReferenceCurve.read(recipe.reference) if recipe.reference else None
        if self._reference and self._reference.data_hash != run.begun_with("data_hash"):
            self._say("the reference learned from other data: its losses show no more than a trend")
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
            reference = self._reference.at(step) if self._reference else None
            beside = {} if reference is None else {"reference": reference}
            self.run.log({"step": step, "held_out": loss, **beside})
            self._scalars(step, {"held_out": loss, **beside})
            stands = "" if reference is None else f"  reference {reference:.4f}"
            stands += "" if reference is None else f" ({loss - reference:+.4f})"
            self._say(f"step {step}/{self.steps or '?'}  held-out loss {loss:.4f}{stands}")

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
    text_to_speech.say(speaking, sentence).save(target, overwrite=True)


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
