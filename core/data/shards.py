"""Work cut into shards: several processes, one report for each shard, and nothing done twice.

A shard is one Parquet file of the output folder, renamed to its name when it is complete.
``report/NAME.json`` lists the utterances it kept and dropped, and why; ``Report`` gathers these
files.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import DataError, when_stopped

REPORTS = "report"
"""Folder inside an output folder with a file for each shard."""
REPORT = "report.json"
"""The one file of earlier versions, still read."""
BEGUN = "settings"
"""Name of the file that is written before there is a shard."""


@dataclass
class ShardReport:
    """The utterances that one shard kept and dropped."""

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
    """The reports of all shards of an output folder, gathered from one file for each of them.

    As no two shards share a file, several processes can write into one folder. ``settings`` are
    those of the command, or None to take them from the files. Raises ``DataError`` where the
    folder was begun with others, or holds Parquet files that no report tells of.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        # as JSON returns them, where tuples are lists
        self.settings = None if settings is None else json.loads(json.dumps(settings))
        self.shards: dict[str, dict[str, Any]] = {}
        if self.gather() or settings is None:
            return
        if any(self.folder.glob("*.parquet")):
            raise DataError(
                "The folder holds Parquet files without a report, so nobody knows what they are.",
                str(folder),
                "Choose another folder for the output.",
            )
        # before the first shard, so that a process that starts meanwhile sees whose folder it is
        self._write(BEGUN, {})

    def add(self, report: ShardReport) -> None:
        """Take a finished shard in and write its file."""
        self.shards[report.name] = asdict(report)
        self._write(report.name, {report.name: self.shards[report.name]})

    def gather(self) -> int:
        """Read the files that all processes have written by now -> their number."""
        paths = sorted((self.folder / REPORTS).glob("*.json"))
        # folders of earlier versions have one file for all shards, beside which newer ones stand
        before = self.folder / REPORT
        paths = [before, *paths] if before.exists() else paths
        for path in paths:
            settings, shards = _read(path)
            self.settings = settings if self.settings is None else self.settings
            _refuse_other(settings, self.settings, path)
            self.shards |= shards
        return len(paths)

    def done(self, name: str) -> bool:
        """Tell whether a shard is complete; without an entry it was renamed just before a kill."""
        return (self.folder / f"{name}.parquet").exists() and name in self.shards

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

    def as_data(self) -> dict[str, Any]:
        """Settings, sums and every shard by name."""
        shards = dict(sorted(self.shards.items()))
        return {"settings": self.settings, "total": self.total(), "shards": shards}

    def _write(self, name: str, shards: Mapping[str, Any]) -> None:
        data = {"settings": self.settings, "shards": shards}
        text = json.dumps(data, indent=1, ensure_ascii=False)
        write_text(self.folder / REPORTS / f"{name}.json", text + "\n")


def gathered(folder: str | Path) -> Report:
    """The report of a folder that ``wishbone data`` wrote. Raises ``DataError`` if it has none."""
    report = Report(folder)
    if report.settings is None:
        raise DataError(
            "The folder has no report.", str(folder), "Give a folder that 'wishbone data' wrote."
        )
    return report


def _read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings and shards of one report file."""
    try:
        data = json.loads(path.read_bytes())
        settings, shards = dict(data["settings"]), dict(data["shards"])
        for shard in shards.values():
            _check_shard(shard)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"The report cannot be read: {error}.", str(path), "Choose another folder."
        ) from error
    return settings, shards


def _check_shard(shard: Any) -> None:
    """Raise ``ValueError``, ``KeyError`` or ``TypeError`` for what is no ``ShardReport``."""
    if type(shard["kept"]) is not int or shard["kept"] < 0:
        raise ValueError(f"kept is {shard['kept']!r}")
    if not isinstance(shard["seconds"], int | float) or not math.isfinite(shard["seconds"]):
        raise ValueError(f"seconds is {shard['seconds']!r}")
    if not isinstance(shard["dropped"], list):
        raise ValueError("dropped is no list")
    for entry in shard["dropped"]:
        if not all(isinstance(entry[name], str) for name in ("id", "text", "reason")):
            raise ValueError(f"{entry!r} is no utterance")


def _refuse_other(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Raise ``DataError`` where the folder was begun with other settings."""
    differ = [k for k in before.keys() | now.keys() if before.get(k) != now.get(k)]
    if differ:
        raise DataError(
            f"The folder was begun with another value of: {', '.join(sorted(differ))}.",
            str(path),
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
    ``workers`` > 1 run it in new processes. ``lines`` are the lines of the source of each job,
    where every line is one utterance and the number of the first is the job's name: a shard that
    has fewer is made again, and ``DataError`` is raised when two would share some. Prints progress
    with the remaining time.
    """
    report = Report(folder, settings)
    lines = lines or {}
    _refuse_overlaps(lines, report)
    waiting = [
        job
        for job in jobs
        if not report.done(job[0]) or report.count(job[0]) < len(lines.get(job[0], ()))
    ]
    if len(waiting) < len(jobs):
        _say(f"{len(jobs) - len(waiting)} of {len(jobs)} shards are there already")
    with when_stopped(
        lambda: (
            f"{sum(report.done(name) for name, _ in jobs)} of {len(jobs)} shards are done in"
            f" {folder}; the same command goes on"
        )
    ):
        _run(work, waiting, workers, report)
    # other processes may have added theirs meanwhile
    report.gather()
    total = report.total()
    _say(
        f"{folder}: {total['kept']} utterances, {total['hours']} h;"
        f" see 'wishbone data report {folder}'"
    )
    for reason, count in total["dropped"].items():
        _say(f"  dropped {count}: {reason}")
    return report


def _run(
    work: Callable[..., ShardReport],
    jobs: Sequence[tuple[str, tuple[Any, ...]]],
    workers: int,
    report: Report,
) -> None:
    """Work off the jobs, note each in the report, and print how far it is."""
    begin, seconds = time.monotonic(), 0.0
    for number, result in enumerate(_results(work, jobs, workers), start=1):
        report.add(result)
        seconds += result.seconds
        passed = time.monotonic() - begin
        remaining = int(passed / number * (len(jobs) - number))
        _say(
            f"{number}/{len(jobs)}  {result.name}: {result.kept} kept,"
            f" {len(result.dropped)} dropped  {seconds / max(passed, 1e-9):.1f} x real time"
            f"  {remaining // 60}:{remaining % 60:02d} left"
        )


def _refuse_overlaps(lines: Mapping[str, range], report: Report) -> None:
    """Raise ``DataError`` where a finished shard of another name has lines of a job."""
    for name in report.shards if lines else ():
        finished = range(int(name), int(name) + report.count(name))
        for other, requested in lines.items():
            first = max(finished.start, requested.start)
            last = min(finished.stop, requested.stop)
            if other != name and first < last:
                raise DataError(
                    f"Lines {first} to {last - 1} are in the shard {name} already, and would be in"
                    f" {other} again.",
                    str(report.folder),
                    "Start at a line where a shard begins or at one after the last of them.",
                )


def _results(
    work: Callable[..., ShardReport], jobs: Sequence[tuple[str, tuple[Any, ...]]], workers: int
) -> Iterator[ShardReport]:
    """Reports of jobs as they end, in this process or in ``workers`` others."""
    if workers <= 1 or len(jobs) <= 1:
        for _, arguments in jobs:
            yield work(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_leave_signals
    ) as pool:
        waiting = [pool.submit(work, *arguments) for _, arguments in jobs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # shards at hand are thrown away: nobody waits for them any more
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _leave_signals() -> None:
    """Let Ctrl-C end the process that started this one, which ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
