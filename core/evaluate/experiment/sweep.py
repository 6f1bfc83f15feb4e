"""``wishbone ab NAME --train``: the trainings that an A/B's arms need, in a row or in parts.

Each is an ordinary run of ``wishbone train`` in a folder of its own, which can be looked at,
stopped and resumed like any other. A lock beside that folder keeps two processes from doing the
same one, so that the same command in two terminals shares the work.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.experiment.arms import Training
from wishbone.core.report.progress import say
from wishbone.core.scale.part_process import accelerators_of_part
from wishbone.core.scale.step import Done
from wishbone.core.train.run import run


def train(trainings: Sequence[Training], only: str = "") -> bool:
    """Run the trainings that are not done; returns True where all that were chosen are done now.

    ``only`` is a pattern of names such as ``rwkv7-*`` or ``*.1``. A training of another process
    is passed over, and so is the rest when somebody asks to stop (SIGINT, SIGTERM): the training
    at hand leaves a checkpoint first. Raises ``UsageError`` when nothing has such a name.
    """
    step = training_step(trainings, only)
    for _ in step.run():
        continue
    return not step.unfinished()


def training_step(trainings: Sequence[Training], only: str = "") -> TrainingStep:
    """The trainings called ``only`` as a step. Raises ``UsageError`` when nothing has the name."""
    chosen = [one for one in trainings if not only or fnmatchcase(one.key, only)]
    if not chosen:
        names = ", ".join(training.key for training in trainings[:8])
        raise UsageError(
            f"No training is called '{only}'."
            if trainings
            else "The arms of this A/B are not its own trainings.",
            "--only" if trainings else "--train",
            f"There are {names}, ..."
            if trainings
            else "Write 'factors' and 'train' into the file, or train the systems yourself.",
        )
    return TrainingStep(tuple(chosen), trainings[0].folder.parent, tuple(trainings))


@dataclass(frozen=True)
class TrainingStep:
    """Trainings as a step: rank r of N runs every N-th, from the r-th, one after another."""

    chosen: tuple[Training, ...]
    folder: Path
    """The folder that has one for each training."""
    all: tuple[Training, ...]

    def prepare(self) -> None:
        """Load nothing: each training loads its own data and model."""

    def run(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """Run the trainings of a rank that are not done, until somebody asks to stop."""
        for training in self.chosen[rank::world_size]:
            if training.done:
                continue
            with locked(training.folder) as acquired:
                if not acquired:
                    say(f"{training.key}: another process is at it")
                    continue
                # it may have been finished while this process was busy
                if training.done:
                    continue
                say(f"{training.key}: training in {training.folder}")
                stopped = _run(training) != 0
                if not training.done:
                    break
            yield Done(training.key)
            if stopped:
                break
        say(f"{sum(training.done for training in self.all)} of {len(self.all)} trainings are done")

    def unfinished(self, rank: int = 0, world_size: int = 1) -> int:
        """Return how many trainings of a rank are not done."""
        return sum(not training.done for training in self.chosen[rank::world_size])


def _run(training: Training) -> int:
    """Train in this process, or under torchrun where this part has several accelerators.

    Returns an exit code, which is not 0 where somebody asked to stop.
    """
    accelerators = accelerators_of_part()
    if accelerators < 2:
        return run(str(training.recipe), training.overrides)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += [f"--nproc-per-node={accelerators}", "-m", "wishbone", "train"]
    words += [str(training.recipe), *training.overrides]
    return subprocess.run(words, check=False).returncode


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Yield True while this process holds the lock of a run's folder; the system frees it."""
    try:
        import fcntl
    except ImportError:
        # no such locks on this system: one process at a time is up to its user
        yield True
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(file)
