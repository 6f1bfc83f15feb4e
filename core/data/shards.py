"""Work cut into shards: several processes, one report for each shard, and nothing done twice.

A shard is one Parquet file of the output folder, renamed to its name when it is complete.
``report/NAME.json`` lists the utterances it kept and dropped, and why; ``Report`` gathers these
files. A process holds a lock on the shard that it makes, so that any number may run one command in
one folder. ``report/settings.json`` says what the shards are made with, and which there will be.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import DataError, when_stopped
from wishbone.core.report.progress import say
from wishbone.core.scale.step import Done, do_part

REPORTS = "report"
"""Folder inside an output folder with a file for each shard."""
REPORT = "report.json"
"""The one report that gathering writes; earlier versions wrote no other."""
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
        self.expected: dict[str, int] = {}
        """Name -> utterances of each shard that there will be; 0 where that is not known."""
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

    def expect(self, names: Mapping[str, int]) -> None:
        """Note which shards there will be, beside those that were noted before."""
        if all(self.expected.get(name, -1) >= count for name, count in names.items()):
            return
        with _held(self.folder / REPORTS / f"{BEGUN}.lock", wait=True):
            self.read(BEGUN)
            for name, count in names.items():
                self.expected[name] = max(count, self.expected.get(name, 0))
            self._write(BEGUN, {})

    def read(self, name: str) -> None:
        """Take in what another process may have written about a shard meanwhile."""
        path = self.folder / REPORTS / f"{name}.json"
        if path.exists():
            self._take(path)

    def gather(self) -> int:
        """Read the files that all processes have written by now -> their number."""
        paths = sorted((self.folder / REPORTS).glob("*.json"))
        # folders of earlier versions have one file for all shards, beside which newer ones stand
        before = self.folder / REPORT
        paths = [before, *paths] if before.exists() else paths
        for path in paths:
            self._take(path)
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
        if name == BEGUN and self.expected:
            data["expected"] = dict(sorted(self.expected.items()))
        text = json.dumps(data, indent=1, ensure_ascii=False)
        write_text(self.folder / REPORTS / f"{name}.json", text + "\n")

    def _take(self, path: Path) -> None:
        settings, shards, expected = _read(path)
        self.settings = settings if self.settings is None else self.settings
        _refuse_other(settings, self.settings, path)
        self.shards |= shards
        self.expected |= expected


def gathered(folder: str | Path) -> Report:
    """The report of a folder that ``wishbone data`` wrote. Raises ``DataError`` if it has none."""
    report = Report(folder)
    if report.settings is None:
        raise DataError(
            "The folder has no report.", str(folder), "Give a folder that 'wishbone data' wrote."
        )
    return report


def _read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, int]]:
    """Settings, shards and expected shards of one report file."""
    try:
        data = json.loads(path.read_bytes())
        settings, shards = dict(data["settings"]), dict(data["shards"])
        for shard in shards.values():
            _check_shard(shard)
        expected = dict(data.get("expected") or {})
        if any(type(count) is not int or count < 0 for count in expected.values()):
            raise ValueError("expected is no mapping of names to numbers")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"The report cannot be read: {error}.", str(path), "Choose another folder."
        ) from error
    return settings, shards, expected


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


@dataclass(frozen=True)
class ShardStep:
    """Shards as a step: rank r of N makes every N-th shard that is missing, from the r-th.

    ``work(*arguments)`` writes the file of a shard and is importable by name.
    """

    work: Callable[..., ShardReport]
    jobs: Sequence[tuple[str, tuple[Any, ...]]]
    """Name and arguments of each shard."""
    folder: Path
    settings: dict[str, Any]
    lines: Mapping[str, range] = field(default_factory=dict)
    """Lines of the source of each job, where every line is one utterance and the number of the
    first is the job's name: a shard that has fewer is made again."""

    def __call__(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """As ``run``: datatrove's pipelines call their steps."""
        return self.run(data, rank, world_size)

    def prepare(self) -> None:
        """Load nothing: models are loaded where the settings of a step come from."""

    def run(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """Make the missing shards of a rank; ``DataError`` where two would share some lines."""
        report = Report(self.folder, self.settings)
        _refuse_overlaps(self.lines, report)
        report.expect({name: len(self.lines.get(name, ())) for name, _ in self.jobs})
        waiting = [job for job in self.jobs[rank::world_size] if not self._complete(job[0], report)]
        busy = []
        for wait, jobs in ((False, waiting), (True, busy)):
            for job in jobs:
                with _held(self.folder / REPORTS / f"{job[0]}.lock", wait) as free:
                    if not free:
                        # another process is at it; perhaps it is complete when the rest is
                        busy.append(job)
                        continue
                    report.read(job[0])
                    if self._complete(job[0], report):
                        continue
                    result = self.work(*job[1])
                    report.add(result)
                yield Done(result.name, result.kept, result.seconds, len(result.dropped))

    def unfinished(self, rank: int = 0, world_size: int = 1) -> int:
        """Return how many shards of a rank are missing."""
        report = Report(self.folder, self.settings)
        return sum(not self._complete(name, report) for name, _ in self.jobs[rank::world_size])

    def _complete(self, name: str, report: Report) -> bool:
        return report.done(name) and report.count(name) >= len(self.lines.get(name, ()))


def run_shards(
    work: Callable[..., ShardReport],
    jobs: Sequence[tuple[str, tuple[Any, ...]]],
    folder: Path,
    settings: dict[str, Any],
) -> Report:
    """Call ``work(*arguments)`` for every job ``(name, arguments)`` whose shard is missing."""
    return run_step(ShardStep(work, jobs, folder, settings))


def run_step(step: ShardStep, part: int = 1, parts: int = 1) -> Report:
    """Make the missing shards of a part, and print how far it is and what came of it."""
    count = len(step.jobs[part - 1 :: parts])
    missing = step.unfinished(part - 1, parts)
    if missing < count:
        say(f"{count - missing} of {count} shards are there already")
    with when_stopped(
        lambda: (
            f"{count - step.unfinished(part - 1, parts)} of {count} shards are done in"
            f" {step.folder}; the same command goes on"
        )
    ):
        do_part(_Telling(step, missing), part, parts)
    report = Report(step.folder, step.settings)
    total = report.total()
    say(
        f"{step.folder}: {total['kept']} utterances, {total['hours']} h;"
        f" see 'wishbone data report {step.folder}'"
    )
    for reason, dropped in total["dropped"].items():
        say(f"  dropped {dropped}: {reason}")
    return report


@dataclass(frozen=True)
class _Telling:
    """A step that prints every shard as it ends, and the remaining time."""

    step: ShardStep
    missing: int

    @property
    def folder(self) -> Path:
        return self.step.folder

    def prepare(self) -> None:
        self.step.prepare()

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Done]:
        begin, seconds = time.monotonic(), 0.0
        for number, done in enumerate(self.step.run(data, rank, world_size), start=1):
            seconds += done.seconds
            passed = time.monotonic() - begin
            remaining = int(passed / number * max(0, self.missing - number))
            say(
                f"{number}/{self.missing}  {done.name}: {done.items} kept,"
                f" {done.failures} dropped  {seconds / max(passed, 1e-9):.1f} x real time"
                f"  {remaining // 60}:{remaining % 60:02d} left"
            )
            yield done

    def unfinished(self, rank: int = 0, world_size: int = 1) -> int:
        return self.step.unfinished(rank, world_size)


@contextmanager
def _held(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock of this name; false where another process does and this one does not wait.

    The system lets go of it when a process dies, however that comes. Where the file system knows
    no locks, processes rely on parts that share nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    except NotImplementedError:
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


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
