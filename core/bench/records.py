"""The result of a run as typed records: the content of ``bench.json``, and all that pages show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.bench.protocol import Round
from wishbone.core.bench.suite import SuiteConfig
from wishbone.core.evaluate.record import optional, record_json
from wishbone.core.report.json_file import write_json

FORMAT = "wishbone-bench/1"
"""First part of every ``bench.json``; a change that readers must know of raises the number."""
JSON_FILE = "bench.json"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Some numbers in five: median, quartiles and ends."""

    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""
    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Limit(Spread):
    """Bytes per second that memory gave to one contender."""

    contender: str


@dataclass(frozen=True, kw_only=True)
class Row(Spread):
    """One measure of a contender in a case, over all rounds."""

    contender: str
    title: str
    case: str
    measure: str
    rounds: int
    busy: float
    """Share of a processor that the contender had in the worst round."""
    positions_per_second: float | None = optional()
    bytes_per_second: float | None = optional()
    share_of_limit: float | None = optional()
    """Bytes per second over the speed at which memory was read in the same rounds."""


@dataclass(frozen=True, kw_only=True)
class RatioResult:
    """A claim and the ratio that was measured; its first seven fields are those of the suite."""

    title: str
    of: str
    over: str
    measure: str
    at_least: float | None
    at_most: float | None
    stretch: float | None
    status: str
    """met, missed, reported (nothing was required) or not measured."""
    sure: bool = False
    """True where the whole interval is on the same side as the median."""
    reached: bool = False
    """True where the ratio reached its stretch."""
    value: float | None = optional()
    """Median of the rounds' ratios; None, as all that follows, where it was not measured."""
    low: float | None = optional()
    high: float | None = optional()
    coverage: float | None = optional()
    """Probability with which such an interval holds the true median."""
    rounds: int | None = optional()
    why: str | None = optional()
    """Reason why it was not measured."""

    @property
    def requirement(self) -> str:
        """The required ratio in words; empty where nothing was required."""
        if self.at_least is not None:
            return f"must be at least {self.at_least:g}x"
        return f"must be at most {self.at_most:g}x" if self.at_most is not None else ""


@dataclass(frozen=True)
class ContenderResult:
    """A contender at the end of a suite."""

    title: str
    name: str
    config: dict[str, Any]
    status: str
    why: str
    facts: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    difference: dict[str, float]
    tolerance: float
    rounds: dict[str, list[Round | None]]

    def memory(self, case: str) -> int:
        """Return the bytes of a state, or else of the process, in a case; 0 where unknown."""
        facts = self.cases.get(case, {})
        return facts.get("state_bytes") or facts.get("peak_bytes") or 0


@dataclass(frozen=True)
class SuiteResult:
    """One suite: who took part, their times and the ratios between them."""

    name: str
    about: str
    quick: bool
    stopped: str
    """Reason why nothing was timed, or empty."""
    config: SuiteConfig
    contenders: dict[str, ContenderResult]
    loads: list[float]
    limits: dict[str, Limit]
    """Case of a contender that only moves bytes -> its speed."""
    rows: list[Row]
    ratios: list[RatioResult]


@dataclass(frozen=True)
class BenchResult:
    """A whole run."""

    format: str
    began: str
    ended: str
    command: str
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str]
    suites: list[SuiteResult]
    outcome: str
    """met, missed, incomplete or none."""
    verdict: str


def as_data(result: BenchResult) -> dict[str, Any]:
    """Return the content of ``bench.json``."""
    return record_json(result)


def write_result(result: BenchResult, folder: Path) -> Path:
    """Write ``bench.json`` into ``folder``."""
    return write_json(folder / JSON_FILE, as_data(result))
