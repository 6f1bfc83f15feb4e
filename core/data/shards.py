"""Work cut into shards: several processes, one report, and nothing done twice.

A shard is one Parquet file of the output folder, written aside and renamed, so a shard that is
there is complete. ``report.json`` says what each shard kept and dropped, and why.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.atomic import write_text
from wishbone.core.errors import DataError

REPORT = "report.json"


@dataclass
class ShardReport:
    """What became of one shard."""

    name: str
    kept: int = 0
    seconds: float = 0.0
    """Of audio that was kept."""
    dropped: list[dict[str, str]] = field(default_factory=list)
    """``{"id": ..., "text": ..., "reason": ...}`` for each utterance that is missing."""

    def drop(self, identity: str, text: str, reason: str) -> None:
        """Note an utterance that is left out."""
        self.dropped.append({"id": identity, "text": text, "reason": reason})


class Report:
    """``report.json`` of an output folder, rewritten after every shard."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path = folder / REPORT
        self.settings = settings
        self.shards: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self._read_back()
        elif folder.exists() and any(folder.glob("*.parquet")):
            raise DataError(
                "The folder holds Parquet files without a report, so nobody knows what they are.",
                str(folder),
                "Choose another folder for the output.",
            )

    def add(self, report: ShardReport) -> None:
        """Take a finished shard in and write the file."""
        self.shards[report.name] = asdict(report)
        whole = {"settings": self.settings, "total": self.total(), "shards": self.shards}
        write_text(self.path, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")

    def count(self, name: str) -> int:
        """Utterances a shard accounts for, kept or dropped; 0 when it is not there."""
        shard = self.shards.get(name)
        return shard["kept"] + len(shard["dropped"]) if shard else 0

    def total(self) -> dict[str, Any]:
        """Sums over all shards; reasons are counted without what follows their colon."""
        reasons = Counter(
            entry["reason"].partition(":")[0]
            for shard in self.shards.values()
            for entry in shard["dropped"]
        )
        return {
            "kept": sum(shard["kept"] for shard in self.shards.values()),
            "hours": round(sum(shard["seconds"] for shard in self.shards.values()) / 3600, 3),
            "dropped": dict(reasons.most_common()),
        }

    def _read_back(self) -> None:
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
            settings, self.shards = before["settings"], dict(before["shards"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"The report cannot be read: {error}.", str(self.path), "Choose another folder."
            ) from error
        now = json.loads(json.dumps(self.settings))
        differ = [k for k in settings.keys() | now.keys() if settings.get(k) != now.get(k)]
        if differ:
            raise DataError(
                f"The folder was begun with another value of: {', '.join(sorted(differ))}.",
                str(self.path),
                "Choose another folder for the output, or repeat the first command.",
            )


def run_shards(
    work: Callable[..., ShardReport],
    jobs: Sequence[tuple[str, tuple[Any, ...]]],
    folder: Path,
    settings: dict[str, Any],
    workers: int = 1,
    lines: Mapping[str, range] | None = None,
) -> Report:
    """Call ``work(*arguments)`` for every job whose file ``<name>.parquet`` is not there yet.

    ``jobs`` are ``(name, arguments)``; ``work`` writes the file and is importable by name, because
    ``workers`` > 1 run it in fresh processes. ``lines`` says which lines of the source each job is
    about, where each of them is one utterance and the first of them the name: a shard that has
    fewer is made again, and ``DataError`` is raised when two would share some. Prints progress
    with the time left.
    """
    report = Report(folder, settings)
    lines = lines or {}
    _refuse_overlaps(lines, report)
    waiting = [
        job
        for job in jobs
        if not _done(job[0], folder, report) or report.count(job[0]) < len(lines.get(job[0], ()))
    ]
    if len(waiting) < len(jobs):
        _say(f"{len(jobs) - len(waiting)} of {len(jobs)} shards are there already")
    begin, seconds = time.monotonic(), 0.0
    for number, result in enumerate(_results(work, waiting, workers), start=1):
        report.add(result)
        seconds += result.seconds
        passed = time.monotonic() - begin
        left = int(passed / number * (len(waiting) - number))
        _say(
            f"{number}/{len(waiting)}  {result.name}: {result.kept} kept,"
            f" {len(result.dropped)} dropped  {seconds / max(passed, 1e-9):.1f} x real time"
            f"  {left // 60}:{left % 60:02d} left"
        )
    total = report.total()
    _say(f"{folder}: {total['kept']} utterances, {total['hours']} h; see {report.path}")
    for reason, count in total["dropped"].items():
        _say(f"  dropped {count}: {reason}")
    return report


def _done(name: str, folder: Path, report: Report) -> bool:
    """A file without an entry in the report was renamed just before a kill: it is made again."""
    return (folder / f"{name}.parquet").exists() and name in report.shards


def _refuse_overlaps(lines: Mapping[str, range], report: Report) -> None:
    for name in report.shards if lines else ():
        there = range(int(name), int(name) + report.count(name))
        for other, wanted in lines.items():
            first, last = max(there.start, wanted.start), min(there.stop, wanted.stop)
            if other != name and first < last:
                raise DataError(
                    f"Lines {first} to {last - 1} are in the shard {name} already, and would be in"
                    f" {other} again.",
                    str(report.path),
                    "Start at a line where a shard begins or at one after the last of them.",
                )


def _results(
    work: Callable[..., ShardReport], jobs: Sequence[tuple[str, tuple[Any, ...]]], workers: int
) -> Iterator[ShardReport]:
    if workers <= 1 or len(jobs) <= 1:
        for _, arguments in jobs:
            yield work(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        waiting = [pool.submit(work, *arguments) for _, arguments in jobs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
