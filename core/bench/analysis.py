"""From the rounds of a run to its result."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from wishbone.core.bench.arithmetic import judge, overall, paired_ratio, spread, verdict
from wishbone.core.bench.contenders import INSTALL, version_of
from wishbone.core.bench.protocol import Round
from wishbone.core.bench.records import (
    FORMAT,
    BenchResult,
    ContenderResult,
    Limit,
    RatioResult,
    Row,
    SuiteResult,
)
from wishbone.core.bench.rounds import Outcome, Standing, run
from wishbone.core.bench.suite import Plan, RatioConfig, split_side
from wishbone.core.contract.extensions.metric import Package
from wishbone.core.evaluate.measure import speed
from wishbone.core.registry.extras import missing_packages
from wishbone.core.report.progress import say

DISTRIBUTIONS = ("wishbone-tts", "torch", "numpy", "triton")
"""Packages of every result; contenders name their own."""
REPORTING = (Package("rich", "rich"), Package("jinja2", "jinja2"))
"""Packages that print a result; without matplotlib there are no charts."""


def bench(plans: Sequence[Plan], words: Sequence[str], quick: bool) -> BenchResult:
    """Run every suite; ``words`` are those of the command.

    Raises ``MissingExtra`` before anything is timed where the result could not be shown.
    """
    missing_packages(REPORTING, "report a benchmark", install=INSTALL)
    began = now()
    suites = [suite_result(plan, run(plan, say)) for plan in plans]
    return whole_result(plans, suites, began, words, quick)


def suite_result(plan: Plan, outcome: Outcome) -> SuiteResult:
    """Summarize the rounds of one suite."""
    return SuiteResult(
        name=plan.name,
        about=plan.suite.about,
        quick=plan.quick,
        stopped=outcome.stopped,
        config=plan.suite,
        contenders={key: _contender(s) for key, s in outcome.standings.items()},
        loads=outcome.loads,
        limits=_limits(outcome),
        rows=_rows(outcome),
        ratios=[_ratio(claim, plan, outcome) for claim in plan.suite.ratios],
    )


def whole_result(
    plans: Sequence[Plan],
    suites: Sequence[SuiteResult],
    began: datetime,
    words: Sequence[str],
    quick: bool,
) -> BenchResult:
    """Put the suites of a run together, with machine, versions and verdict."""
    return BenchResult(
        format=FORMAT,
        began=began.isoformat(timespec="seconds"),
        ended=now().isoformat(timespec="seconds"),
        command=" ".join(["wishbone", "bench", *words]),
        quick=quick,
        machine=machine(),
        versions=versions(plans),
        suites=list(suites),
        outcome=overall(suites, quick),
        verdict=verdict(suites, quick),
    )


def now() -> datetime:
    """Return the time of day, with its zone."""
    return datetime.now(UTC)


def machine() -> dict[str, Any]:
    """Describe this machine: processor, cores, memory in bytes, load, GPU."""
    facts = {name: fact for name, fact in vars(speed.machine()).items() if name != "threads"}
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        memory = 0
    return {**facts, "memory": memory}


def versions(plans: Sequence[Plan]) -> dict[str, str]:
    """Return the versions of Python and of every installed package that may take part."""
    entries = [entry for plan in plans for entry in plan.entries.values()]
    peers = (name for entry in entries for name in entry.contender.distributions)
    installed = {name: version_of(name) for name in dict.fromkeys((*DISTRIBUTIONS, *peers))}
    python = f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"
    return {"python": python} | {name: version for name, version in installed.items() if version}


def _contender(standing: Standing) -> ContenderResult:
    return ContenderResult(
        title=standing.entry.title,
        name=standing.entry.name,
        config=asdict(standing.entry.config),
        status=standing.status,
        why=standing.why,
        facts=standing.facts,
        cases=standing.cases,
        difference=standing.difference,
        tolerance=standing.entry.tolerance,
        rounds=standing.rounds,
    )


def _limits(outcome: Outcome) -> dict[str, Limit]:
    """Return the bytes per second of every case of a contender that only moves bytes."""
    limits = {}
    for key, standing in outcome.standings.items():
        for case in standing.facts.get("case_bytes", {}):
            speeds = [value for value in _values(standing, case, "bytes_per_second") if value]
            if speeds:
                limits[case] = Limit(**asdict(spread(speeds)), contender=key)
    return limits


def _rows(outcome: Outcome) -> list[Row]:
    """Make a row of every contender, case and measure that has numbers."""
    reads = _reads(outcome)
    rows = []
    for key, standing in outcome.standings.items():
        for case in standing.entry.cases:
            rounds = _complete(standing, case)
            for measure in [name for name, values in _first(rounds).items() if values]:
                values = [v for v in standing.medians(case, measure) if v is not None]
                row = Row(
                    **asdict(spread(values)),
                    contender=key,
                    title=standing.entry.title,
                    case=case,
                    measure=measure,
                    rounds=len(values),
                    busy=round(min(turn.busy for turn in rounds), 3),
                )
                if measure == "seconds":
                    row = replace(row, **_rates(standing, case, row.median, reads))
                rows.append(row)
    return rows


def _complete(standing: Standing, case: str) -> list[Round]:
    return [turn for turn in standing.rounds.get(case, []) if turn]


def _first(rounds: Sequence[Round]) -> dict[str, list[float]]:
    return rounds[0].measured if rounds else {}


def _rates(
    standing: Standing, case: str, seconds: float, reads: Sequence[float | None]
) -> dict[str, float]:
    """Return positions and bytes per second and the share of the limit, where they exist."""
    kind, _, number = case.partition(" ")
    facts = standing.facts
    rates = {}
    if kind in ("step", "context"):
        rates["positions_per_second"] = facts.get("batch", 1) / seconds
    if kind == "prefill":
        rates["positions_per_second"] = int(number) / seconds
    if "case_bytes" in facts:
        rates["bytes_per_second"] = facts["case_bytes"][case] / seconds
    if kind == "step" and facts.get("step_bytes") and reads:
        share = paired_ratio(_values(standing, case, "bytes_per_second"), reads)
        if share is not None:
            rates["share_of_limit"] = share.value
    return rates


def _reads(outcome: Outcome) -> list[float | None]:
    """Return the bytes per second at which memory could be read, round by round."""
    for standing in outcome.standings.values():
        if "read" in standing.facts.get("case_bytes", {}):
            return _values(standing, "read", "bytes_per_second")
    return []


def _ratio(claim: RatioConfig, plan: Plan, outcome: Outcome) -> RatioResult:
    if plan.quick:
        # nothing is required of times that mean nothing
        claim = replace(claim, at_least=None, at_most=None, stretch=None)
    sides = [split_side(side, plan) for side in (claim.of, claim.over)]
    standings = [outcome.standings[key] for key, _ in sides]
    cases = [case for _, case in sides]
    if any(standing.status != "measured" for standing in standings):
        why = [f"{s.entry.title}: {s.status}" for s in standings if s.status != "measured"]
        return judge(None, claim, "; ".join(dict.fromkeys(why)))
    pairs = list(zip(standings, cases, strict=True))
    if any("left_out" in standing.cases.get(case, {}) for standing, case in pairs):
        return judge(None, claim, "a case was left out")
    above, below = (_values(standing, case, claim.measure) for standing, case in pairs)
    return judge(paired_ratio(above, below), claim)


def _values(standing: Standing, case: str, measure: str) -> list[float | None]:
    """Return a number for each round; bytes per second follow from seconds and known sizes."""
    if measure != "bytes_per_second":
        return standing.medians(case, measure)
    facts = standing.facts
    size = facts.get("case_bytes", {}).get(case) or facts.get("step_bytes")
    return [size / t if t and size else None for t in standing.medians(case, "seconds")]
