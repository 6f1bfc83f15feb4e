"""Votes of blind comparisons: a line of JSON for each, and the tally with an interval."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from wishbone.core.evaluate.statistics.paired import wilson

CHOICES = ("a", "b", "same")
MOST_VOTES = 1_000_000
"""Votes of a file; more are refused."""


class Votes:
    """The votes in one file, with their counts by pair. Methods run in any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._pairs: dict[tuple[str, str], dict[str, int]] = {}
        self._lock = threading.Lock()
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
                self._count(str(row["a"]), str(row["b"]), str(row["choice"]))
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a server that was killed while it wrote

    def add(self, row: dict[str, Any]) -> None:
        """Append a vote with the time. Raises ``OSError`` where the file cannot be written."""
        row = {**row, "time": round(time.time(), 3)}
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._count(row["a"], row["b"], row["choice"])

    def tally(self) -> dict[str, Any]:
        """Counts of each pair; its rate is ``a``'s share of the votes that preferred one."""
        with self._lock:
            pairs = [(pair, dict(counts)) for pair, counts in sorted(self._pairs.items())]
        return {"object": "list", "data": [_summary(*pair, counts) for pair, counts in pairs]}

    def _count(self, a: str, b: str, choice: str) -> None:
        if choice not in CHOICES:
            raise ValueError(choice)
        # a pair is counted in one order, whichever side each arm stood on
        if b < a:
            a, b, choice = b, a, {"a": "b", "b": "a", "same": "same"}[choice]
        counts = self._pairs.setdefault((a, b), dict.fromkeys(CHOICES, 0))
        counts[choice] += 1
        self.count += 1


def _summary(a: str, b: str, counts: dict[str, int]) -> dict[str, Any]:
    decided = counts["a"] + counts["b"]
    interval = wilson(counts["a"], decided)
    return {
        "a": a,
        "b": b,
        "votes": sum(counts.values()),
        "a_wins": counts["a"],
        "b_wins": counts["b"],
        "same": counts["same"],
        "rate": interval.estimate if decided else None,
        "low": interval.low,
        "high": interval.high,
        "confidence": 0.95,
    }
