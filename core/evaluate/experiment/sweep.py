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
from wishbone.core.evaluate.report.terminal import say


def train(trainings: Sequence[Training], only: str = "") -> bool:
    """Run what is not done; returns whether all that were chosen are done now.

    ``only`` is a pattern of names such as ``rwkv7-*`` or ``*.1``. What another process is working
    on is passed over, and so is the rest when somebody asks to stop (SIGINT, SIGTERM): the training
    at hand leaves a checkpoint first. Raises ``UsageError`` when nothing has such a name.
    """
    from wishbone.core.train.run import run

    chosen = [each for each in trainings if not only or fnmatchcase(each.key, only)]
    if not chosen:
        names = ", ".join(each.key for each in trainings[:8])
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
        with locked(training.folder) as mine:
            if not mine:
                say(f"{training.key}: another process is at it")
                continue
            # it may have been finished while this process was busy
            if training.done:
                continue
            say(f"{training.key}: training in {training.folder}")
            run(str(training.recipe), training.overrides)
            if not training.done:
                break
    done = sum(each.done for each in trainings)
    say(f"{done} of {len(trainings)} trainings are done")
    return all(each.done for each in chosen)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether this process holds the lock of a run's folder now; the system frees it at its end."""
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
