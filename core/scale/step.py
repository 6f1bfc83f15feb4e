"""The contract of bulk work that any number of processes share.

``Step.run(data, rank, world_size)`` is the form that steps of datatrove have, so that every step
stands in a pipeline of datatrove as it is: ``LocalPipelineExecutor([step], tasks=4).run()``. One
process alone is rank 0 of 1.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

LOGS = "logs"
"""Folder inside an output folder: what parts printed, and the work that each of them did."""


@dataclass(frozen=True)
class Done:
    """A piece of work that was finished: a shard, an item."""

    name: str
    items: int = 1
    """Utterances in it that can be used."""
    seconds: float = 0.0
    """Of speech in them."""
    failures: int = 0
    """Utterances that were left out or could not be spoken."""


class Step(Protocol):
    """Work on the pieces of a folder, cut so that rank r of N has every N-th piece from the r-th.

    A piece that is complete is passed over, so a run that was killed goes on with what is missing.
    """

    folder: Path
    """The output folder."""

    def prepare(self) -> None:
        """Load what every piece needs, once in a process; ``run`` does it where nobody has."""
        ...

    def run(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """Do the missing pieces of a rank, yield each when it is written, and read no ``data``."""
        ...

    def unfinished(self, rank: int = 0, world_size: int = 1) -> int:
        """Return how many pieces of a rank are missing; loads no model."""
        ...


@dataclass
class Work:
    """The work of one process on one part, as it stands in ``logs/work-K-of-N.jsonl``."""

    part: int
    parts: int
    host: str = ""
    begin: float = 0.0
    """Seconds since 1970."""
    wall_seconds: float = 0.0
    processor_seconds: float = 0.0
    """Of all threads; as above without the start of the process and what ``prepare`` loads."""
    pieces: int = 0
    items: int = 0
    failures: int = 0
    speech_seconds: float = 0.0


def do_part(step: Step, part: int = 1, parts: int = 1) -> Work:
    """Run a step for part ``part`` of ``parts``, from 1, and write down the work that it was."""
    step.prepare()
    work = Work(part, parts, socket.gethostname(), time.time())
    start, processor = time.perf_counter(), time.process_time()
    try:
        for done in step.run(None, part - 1, parts):
            work.pieces += 1
            work.items += done.items
            work.failures += done.failures
            work.speech_seconds += done.seconds
    finally:
        work.wall_seconds = round(time.perf_counter() - start, 3)
        work.processor_seconds = round(time.process_time() - processor, 3)
        work.speech_seconds = round(work.speech_seconds, 3)
        if work.pieces:
            _write_down(step.folder, work)
    return work


def work_of(folder: Path) -> list[Work]:
    """The work that parts wrote down, that of all their starts; lines cut by a kill are none."""
    rows = []
    for file in sorted((folder / LOGS).glob("work-*.jsonl")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                rows.append(Work(**json.loads(line)))
            except (ValueError, TypeError):
                continue
    return rows


def _write_down(folder: Path, work: Work) -> None:
    path = folder / LOGS / f"work-{work.part:05d}-of-{work.parts:05d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(work)) + "\n"
    # one write of few bytes, so that two processes do not write into each other's line
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(number, line.encode())
    finally:
        os.close(number)
