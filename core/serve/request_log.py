"""The log of requests, and what the arms of a route made of theirs, with intervals.

A line of the file has the keys of an item of ``wishbone ab`` (``experiment/items.py``), which
reads it: arm, prompt, repeat, text, seed, engine, seconds, failure.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.evaluate.statistics.paired import Interval, bootstrap, student, wilson

NEWEST = 2_000
"""Requests of each arm of a route that the intervals are of."""
DRAWS = 2_000
"""Resamples of an interval; a page is waiting for it."""
MEASURES = ("first_sound", "real_time_factor")


@dataclass(frozen=True)
class Entry:
    """One request that was spoken, or not."""

    request: str
    route: str
    arm: str
    text: str
    seed: int
    engine: str
    voice: str
    seconds: float
    """Seconds of audio."""
    spent: float
    """Seconds in its slot."""
    first_sound: float | None
    """Seconds from its arrival to the first samples."""
    failure: str

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of audio, with all who shared the steps."""
        return self.spent / self.seconds if self.seconds else None


class RequestLog:
    """Requests by route and arm, and their file. Methods run in any thread."""

    def __init__(self, path: Path | None) -> None:
        """``path`` None writes nothing. An older file is read: a restart forgets nothing."""
        self.path = path
        self._newest: dict[tuple[str, str], deque[Entry]] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def add(self, entry: Entry) -> None:
        """Remember a request, and append its line."""
        with self._lock:
            self._remember(entry)
            if self.path is None:
                return
            # a number of its own tells each request of an arm from the others of the same text
            repeat = self._counts[entry.arm] = self._counts.get(entry.arm, -1) + 1
            prompt = prompt_key(entry.text)
            row = {"prompt": prompt, "repeat": repeat, **asdict(entry), "time": time.time()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def summary(self, routes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Routes with the figures of their arms, and the differences to the first arm."""
        with self._lock:
            entries = {key: list(newest) for key, newest in self._newest.items()}
        return {"routes": {name: _route(name, arms, entries) for name, arms in routes.items()}}

    def _remember(self, entry: Entry) -> None:
        newest = self._newest.setdefault((entry.route, entry.arm), deque(maxlen=NEWEST))
        newest.append(entry)

    def _read(self, line: str) -> None:
        try:
            row = json.loads(line)
            entry = Entry(**{name: row[name] for name in Entry.__dataclass_fields__})
            self._counts[entry.arm] = max(self._counts.get(entry.arm, -1), int(row["repeat"]))
            self._remember(entry)
        except (ValueError, KeyError, TypeError):
            return  # the last line of a server that was killed while it wrote


def prompt_key(text: str) -> str:
    """Name a text, so that equal texts are one prompt."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]


def difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Mean of ``second`` less that of ``first``, of independent requests (Welch 1947)."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    estimate = float(b.mean() - a.mean())
    if min(len(a), len(b)) < 2:
        return Interval(estimate, -math.inf, math.inf)
    parts = [float(values.var(ddof=1)) / len(values) for values in (a, b)]
    if not sum(parts):
        return Interval(estimate, estimate, estimate)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True)
    )
    half = student(0.975, freedom) * math.sqrt(sum(parts))
    return Interval(estimate, estimate - half, estimate + half)


def _route(
    name: str, arms: Sequence[str], entries: Mapping[tuple[str, str], list[Entry]]
) -> dict[str, Any]:
    by_arm = {arm: entries.get((name, arm), []) for arm in arms}
    values = {
        (arm, measure): _values(of_arm, measure)
        for arm, of_arm in by_arm.items()
        for measure in MEASURES
    }
    base = arms[0]
    return {
        "arms": {arm: _arm(of_arm) for arm, of_arm in by_arm.items()},
        "baseline": base,
        "differences": {
            arm: {
                measure: _as_json(difference(values[base, measure], values[arm, measure]))
                for measure in MEASURES
                if values[base, measure] and values[arm, measure]
            }
            for arm in arms[1:]
        },
    }


def _arm(entries: Sequence[Entry]) -> dict[str, Any]:
    failures = sum(entry.failure not in ("", "cancelled") for entry in entries)
    figures: dict[str, Any] = {
        "requests": len(entries),
        "cancelled": sum(entry.failure == "cancelled" for entry in entries),
        "failures": {"count": failures, **_as_json(wilson(failures, len(entries)))},
    }
    for measure in MEASURES:
        values = _values(entries, measure)
        if values:
            figures[measure] = _as_json(bootstrap(np.asarray(values), draws=DRAWS))
    return figures


def _values(entries: Sequence[Entry], measure: str) -> list[float]:
    """Values of requests that succeeded."""
    of_entry = {
        "first_sound": lambda entry: entry.first_sound,
        "real_time_factor": lambda entry: entry.real_time_factor,
    }[measure]
    values = [of_entry(entry) for entry in entries if not entry.failure]
    return [value for value in values if value is not None]


def _as_json(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no infinity."""
    ends = (interval.estimate, interval.low, interval.high)
    estimate, low, high = (end if math.isfinite(end) else None for end in ends)
    return {"estimate": estimate, "low": low, "high": high}
