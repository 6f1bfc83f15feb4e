"""What a run found, as data: the content of ``bench.json`` and all that tables and plots show."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wishbone.core.bench.arithmetic import judge, overall, paired_ratio, spread, verdict
from wishbone.core.bench.contenders import version_of
from wishbone.core.bench.plan import Plan, split_sample
from wishbone.core.bench.rounds import Outcome, Standing
from wishbone.core.contract.atomic import write_text
from wishbone.core.evaluate.measure import speed

FORMAT = "wishbone-bench/1"
"""First part of every ``bench.json``; a change that readers must know of raises the number."""
DISTRIBUTIONS = (
    "wishbone-tts", "torch", "numpy", "triton", "rwkv", "llama-cpp-python", "gguf",
    "flash-linear-attention",
)  # fmt: skip
JSON_FILE = "bench.json"


def suite_result(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Everything one suite found."""
    ratios = [_ratio(asdict(claim), plan, outcome) for claim in plan.suite.ratios]
    return {
        "name": plan.name,
        "about": plan.suite.about,
        "quick": plan.quick,
        "stopped": outcome.stopped,
        "config": plan.as_data(),
        "contenders": {key: s.as_data() for key, s in outcome.standings.items()},
        "loads": outcome.loads,
        "limits": _limits(outcome),
        "rows": _rows(outcome),
        "ratios": ratios,
    }


def whole_result(
    suites: Sequence[Mapping[str, Any]], began: datetime, words: Sequence[str], quick: bool
) -> dict[str, Any]:
    """The content of ``bench.json``."""
    return {
        "format": FORMAT,
        "began": began.isoformat(timespec="seconds"),
        "ended": now().isoformat(timespec="seconds"),
        "command": " ".join(["wishbone", "bench", *words]),
        "quick": quick,
        "machine": machine(),
        "versions": versions(),
        "suites": list(suites),
        "outcome": overall(suites, quick),
        "verdict": verdict(suites, quick),
    }


def write_json(result: Mapping[str, Any], folder: Path) -> Path:
    """Write ``bench.json`` into ``folder``."""
    path = folder / JSON_FILE
    write_text(path, json.dumps(result, indent=1) + "\n")
    return path


def now() -> datetime:
    """The time of day, with its zone."""
    return datetime.now(UTC)


def machine() -> dict[str, Any]:
    """Where it ran: processor, cores, memory in bytes, load, GPU."""
    facts = {name: fact for name, fact in vars(speed.machine()).items() if name != "threads"}
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        memory = 0
    return {**facts, "memory": memory}


def versions() -> dict[str, str]:
    """Of Python and of every distribution that may take part; those that are here."""
    found = {name: version_of(name) for name in DISTRIBUTIONS}
    python = f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"
    return {"python": python} | {name: version for name, version in found.items() if version}


def _limits(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Bytes per second that memory gave, for every case of a contender that only moves bytes."""
    found = {}
    for key, standing in outcome.standings.items():
        for case, size in standing.facts.get("case_bytes", {}).items():
            speeds = [size / t for t in standing.medians(case, "seconds") if t]
            if speeds:
                found[case] = {"contender": key, **asdict(spread(speeds))}
    return found


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    """One for every contender, case and measure that has numbers."""
    reads = _reads(outcome)
    rows = []
    for key, standing in outcome.standings.items():
        for case in standing.entry.cases:
            for measure in _measures(standing, case):
                values = [v for v in standing.medians(case, measure) if v is not None]
                row = {
                    "contender": key,
                    "title": standing.entry.title,
                    "case": case,
                    "measure": measure,
                    "rounds": len(values),
                    **asdict(spread(values)),
                    "busy": _busy(standing, case),
                }
                if measure == "seconds":
                    row |= _derived(standing, case, row["median"], reads)
                rows.append(row)
    return rows


def _measures(standing: Standing, case: str) -> list[str]:
    answers = [answer for answer in standing.rounds.get(case, []) if answer]
    return [name for name, values in answers[0]["measured"].items() if values] if answers else []


def _busy(standing: Standing, case: str) -> float:
    """Processor time over the clock, the worst round: how much was taken away by others."""
    answers = [answer for answer in standing.rounds.get(case, []) if answer]
    return round(min(answer["busy"] for answer in answers), 3)


def _derived(
    standing: Standing, case: str, seconds: float, reads: Sequence[float | None]
) -> dict[str, Any]:
    """Positions per second, and the share of the limit, where these mean something."""
    kind, _, number = case.partition(" ")
    facts, made = standing.facts, {}
    if kind in ("step", "context"):
        made["positions_per_second"] = facts.get("batch", 1) / seconds
    if kind == "prefill":
        made["positions_per_second"] = int(number) / seconds
    if "case_bytes" in facts:
        made["bytes_per_second"] = facts["case_bytes"][case] / seconds
    if kind == "step" and facts.get("step_bytes") and reads:
        share = paired_ratio(_values(standing, case, "bytes_per_second"), reads)
        if share is not None:
            made["share_of_limit"] = share.value
    return made


def _reads(outcome: Outcome) -> list[float | None]:
    """Bytes per second memory could be read at, round by round."""
    for standing in outcome.standings.values():
        if "read" in standing.facts.get("case_bytes", {}):
            return _values(standing, "read", "bytes_per_second")
    return []


def _ratio(claim: dict[str, Any], plan: Plan, outcome: Outcome) -> dict[str, Any]:
    if plan.quick:
        # nothing is asked of times that mean nothing
        claim |= {"at_least": None, "at_most": None, "stretch": None}
    sides = [split_sample(claim[side], plan) for side in ("of", "over")]
    standings = [outcome.standings[key] for key, _ in sides]
    if any(standing.status != "measured" for standing in standings):
        why = [f"{s.entry.title}: {s.status}" for s in standings if s.status != "measured"]
        return judge(None, claim) | {"why": "; ".join(dict.fromkeys(why))}
    if any(
        "left_out" in s.cases.get(case, {}) for s, (_, case) in zip(standings, sides, strict=True)
    ):
        return judge(None, claim) | {"why": "a case was left out"}
    above, below = (
        _values(standing, case, claim["measure"])
        for standing, (_, case) in zip(standings, sides, strict=True)
    )
    return judge(paired_ratio(above, below), claim)


def _values(standing: Standing, case: str, measure: str) -> list[float | None]:
    """One number a round; bytes per second are made of seconds and what the facts say."""
    if measure != "bytes_per_second":
        return standing.medians(case, measure)
    facts = standing.facts
    size = facts.get("case_bytes", {}).get(case) or facts.get("step_bytes")
    return [size / t if t and size else None for t in standing.medians(case, "seconds")]
