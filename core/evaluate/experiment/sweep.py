"""``wishbone ab NAME --train``: the trainings that an A/B's arms need, one after another.

Each is an ordinary run of ``wishbone train`` in a folder of its own, which can be looked at,
stopped and resumed like any other. A lock beside that folder keeps two processes from doing the
same one, so that the same command in two terminals shares the work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.experiment.arms import Training
from wishbone.core.report.progress import say
from wishbone.core.train.run import run


def train(trainings: Sequence[Training], only: str = "") -> bool:
    """Run the trainings that are not done; returns True where all that were chosen are done now.

    ``only`` is a pattern of names such as ``rwkv7-*`` or ``*.1``. A training of another process
    is passed over, and so is the rest when somebody asks to stop (SIGINT, SIGTERM): the training
    at hand leaves a checkpoint first. Raises ``UsageError`` when nothing has such a name.
    """
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
    for training in chosen:
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
            run(str(training.recipe), training.overrides)
            if not training.done:
                break
    count = sum(training.done for training in trainings)
    say(f"{count} of {len(trainings)} trainings are done")
    return all(training.done for training in chosen)


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
