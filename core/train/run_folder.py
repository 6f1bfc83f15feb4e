"""The folder of a run: its configuration, its log, and checkpoints to go on from.

::

    RUN/config.yaml                    the recipe with the system resolved in it
    RUN/log.jsonl                      one JSON object per line: losses, rates, speeds
    RUN/checkpoints/step-00001000/     model, average, optimizer (sharded_files.py), state.json,
                                       and carried, for training on segments
    RUN/export/                        at the end: weights that a system can name
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wishbone.core.config.compose import dump
from wishbone.core.contract.atomic import (
    contents,
    process_lives,
    replace_folder,
    write_text,
)
from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.loading import load_tensors
from wishbone.core.train.distributed.processes import ProcessGroup
from wishbone.core.train.distributed.sharded_files import read_part, write_part, write_rows
from wishbone.core.train.optimizer import Average, Together, load_optimizer, optimizer_tensors
from wishbone.core.train.recipe import RUNNING, Recipe, as_saved


class RunFolder:
    """The files of one run."""

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder = Path(folder)
        self.keep = keep
        self.log_file = self.folder / "log.jsonl"
        self.config_file = self.folder / "config.yaml"
        self.export = self.folder / "export"

    def claim(
        self,
        recipe: Recipe,
        data: str,
        change: bool,
        processes: int = 1,
        about: Mapping[str, Any] | None = None,
        start_weights: str = "",
    ) -> None:
        """Begin a run in the folder, or make sure that the one in it is the same.

        ``data`` is the corpus' hash, ``about`` the result of ``Objective.about``,
        ``start_weights`` the hash of the tensors that the run begins with. Raises ``ConfigError``
        naming the fields that differ, unless ``change`` allows it. More processes and fewer
        batches of each make the same steps, and are no difference.
        """
        path = self.config_file
        positions = recipe.batch_positions * recipe.accumulate * processes
        now = as_saved(recipe) | {"data_hash": data, "positions_per_step": positions}
        now |= {"learned_from": dict(about)} if about else {}
        now |= {"start_weights": start_weights} if start_weights else {}
        if path.exists():
            before = self._begun()
            differ = _changed(before, now)
            if differ and not change:
                raise ConfigError(
                    f"The run here was begun with other values of: {', '.join(differ)}.",
                    str(path),
                    "Choose another 'out', or add --change to go on with the new values.",
                )
        elif contents(self.folder):
            raise ConfigError(
                "The folder holds something that is no training run.",
                str(self.folder),
                "Choose another 'out'.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        for unfinished in (self.folder / "checkpoints").glob(".step-*"):
            writer = unfinished.suffix.removeprefix(".")
            if writer.isdigit() and not process_lives(int(writer)):
                shutil.rmtree(unfinished)
        # a kill between the last checkpoint and its removal
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old)
        write_text(path, dump(now))

    def begun_with(self, field: str) -> Any:
        """The value of a field of the recipe that the run here was begun with; None without one."""
        return self._begun().get(field) if self.config_file.exists() else None

    def _begun(self) -> dict[str, Any]:
        from omegaconf import OmegaConf

        return OmegaConf.to_container(OmegaConf.load(self.config_file))

    def newest(self) -> Path | None:
        """The last complete checkpoint, if there is one."""
        return next(iter(reversed(self._all())), None)

    def save(
        self,
        model: SpeechLM,
        average: Average,
        optimizer: torch.optim.Optimizer | Together,
        state: dict[str, Any],
        group: ProcessGroup,
        carried: Mapping[str, torch.Tensor],
    ) -> Path:
        """Write a checkpoint aside, rename it, and remove the oldest beyond ``keep``.

        All processes call it: each writes its shares of the tensors that are shared out, and its
        rows of ``carried``, the states of sequences that go on in the next step.
        """
        target = self.folder / "checkpoints" / f"step-{state['step']:08d}"
        if group.agree(target.exists()):
            return target
        aside = target.with_name(f".{target.name}.{group.broadcast(os.getpid())}")
        if group.leads:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        group.barrier()
        write_part(aside, "model", model.state_dict(), group)
        write_part(aside, "average", average.tensors(), group)
        write_part(aside, "optimizer", optimizer_tensors(optimizer, model), group)
        if carried:
            write_rows(aside, "carried", carried, group)
        group.barrier()
        if group.leads:
            write_text(aside / "state.json", json.dumps(state, indent=2) + "\n")
            replace_folder(aside, target)
            for old in self._all()[: -self.keep]:
                shutil.rmtree(old)
        return target

    def load(
        self, model: SpeechLM, average: Average, optimizer: torch.optim.Optimizer | Together
    ) -> dict[str, Any]:
        """Go back to the newest checkpoint; an empty dictionary where there is none.

        Every process reads the rows it holds now, whatever number of processes wrote them.
        """
        folder = self.newest()
        if folder is None:
            return {}
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint cannot be read: {error}.",
                str(folder),
                "Remove that folder; the run goes on from the one before it.",
            ) from error
        weights = model.state_dict()
        load_tensors(model, read_part(folder, "model", weights.get), str(folder))
        average.load(read_part(folder, "average", weights.get))
        memory = read_part(folder, "optimizer", lambda name: weights.get(name.partition("/")[2]))
        load_optimizer(optimizer, model, memory)
        return state

    def trim_log(self, step: int) -> None:
        """Remove the lines of the log about steps after ``step``."""
        if self.log_file.exists():
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
            lines = [line for line in lines if _step_of(line) <= step]
            write_text(self.log_file, "".join(line + "\n" for line in lines))

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to the log."""
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _all(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step-*"))


def _step_of(line: str) -> float:
    """The step a line of the log is about; a line cut short by a kill belongs to no step."""
    try:
        return json.loads(line).get("step", 0)
    except (ValueError, AttributeError):
        return float("inf")


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Fields by which losses would change; a field that an older run lacks had its default."""
    differ = set(_differences(as_saved(Recipe()) | before, now))
    if "start_weights" not in before:
        # runs from before this was written down
        differ.discard("start_weights")
    if "positions_per_step" not in before:
        differ.discard("positions_per_step")
    elif "positions_per_step" not in differ:
        differ -= {"batch_positions", "accumulate"}
    return sorted(differ)


def _differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Dotted keys at which two recipes differ, those of ``RUNNING`` left out."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [prefix]
    names = []
    for key in sorted(before.keys() | now.keys(), key=str):
        name = f"{prefix}.{key}" if prefix else str(key)
        if name not in RUNNING:
            names += _differences(before.get(key), now.get(key), name)
    return names
