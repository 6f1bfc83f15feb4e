"""The run itself: every contender's process open at once, taking turns.

Within a round the contenders follow each other case by case, and another one begins each time, so
that no place in the row is an advantage. The first round warms everything up and does not count.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import sqrt
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from wishbone.core.bench.built_in.models import random_weights
from wishbone.core.bench.protocol import ContenderLost, ContenderRefused, Round, Worker
from wishbone.core.bench.suite import Entry, Plan
from wishbone.core.contract.extensions.contender import Job
from wishbone.core.registry.loader import guarded

Say = Callable[[str], None]


@dataclass
class Standing:
    """One contender in a run: its status, facts and times."""

    entry: Entry
    status: str = "measured"
    """measured, missing, failed (never ready), lost (died in the middle) or differs."""
    why: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Case -> facts of it."""
    rounds: dict[str, list[Round | None]] = field(default_factory=dict)
    """Case -> its rounds; None where a round is missing."""
    difference: dict[str, float] = field(default_factory=dict)
    """Way of the check -> largest relative rms difference of a tensor from the first contender."""
    worker: Worker | None = None

    def lose(self, status: str, why: str) -> None:
        """Take it out of the run."""
        self.status, self.why = status, why
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def medians(self, case: str, measure: str) -> list[float | None]:
        """Return one value for each round."""
        return [
            median(turn.measured[measure]) if turn and turn.measured.get(measure) else None
            for turn in self.rounds.get(case, [])
        ]


@dataclass
class Outcome:
    """The standings at the end of a suite."""

    standings: dict[str, Standing]
    loads: list[float] = field(default_factory=list)
    """Load average of the machine at the begin of every round that counts."""
    stopped: str = ""
    """Reason why nothing was timed, or empty."""


def run(plan: Plan, say: Say) -> Outcome:
    """Open, check, take turns, close."""
    outcome = Outcome({key: Standing(entry) for key, entry in plan.entries.items()})
    with TemporaryDirectory(prefix="wishbone-bench-") as folder:
        job = plan.job
        _note_missing(outcome)
        if plan.suite.weights:
            say(f"{plan.name}: writing the same random weights in every format")
            job.weights = folder
            _write_weights(Path(folder), plan, outcome)
        with _opened(outcome, job, say):
            outcome.stopped = _differing(plan, outcome, say)
            if not outcome.stopped:
                _prepare(outcome, say)
                _take_turns(plan, outcome, say)
    return outcome


def _note_missing(outcome: Outcome) -> None:
    for standing in outcome.standings.values():
        if standing.entry.missing:
            standing.lose("missing", standing.entry.missing)


def _write_weights(folder: Path, plan: Plan, outcome: Outcome) -> None:
    """Write the files that the contenders read, each in the words of the first that names it."""
    tensors, config = random_weights(plan.suite.model)
    for standing in outcome.standings.values():
        if standing.status != "measured":
            continue
        entry = standing.entry
        with guarded(entry.part):
            for name in entry.contender.files(entry.config):
                if not (folder / name).exists():
                    entry.contender.write_file(folder / name, tensors, config)


@contextmanager
def _opened(outcome: Outcome, job: Job, say: Say) -> Iterator[None]:
    """Start every process that can be started, one after the other."""
    try:
        for key, standing in outcome.standings.items():
            if standing.status != "measured":
                say(f"{key}: left out, {standing.why}")
                continue
            entry = standing.entry
            standing.worker = Worker(key, entry.part, asdict(entry.config), job)
            try:
                standing.facts = standing.worker.load()
                say(f"{key}: ready ({standing.facts.get('engine', 'loaded')[:60]})")
            except ContenderLost as lost:
                standing.lose("failed", str(lost))
                say(f"{key}: cannot take part, {lost}")
        yield
    finally:
        for standing in outcome.standings.values():
            if standing.worker is not None:
                standing.worker.close()
                standing.worker = None


def _running(outcome: Outcome) -> list[Standing]:
    return [standing for standing in outcome.standings.values() if standing.worker is not None]


def _differing(plan: Plan, outcome: Outcome, say: Say) -> str:
    """Compare the tensors of all contenders of the suite's own cases -> why to stop, or nothing."""
    check = plan.suite.check
    if not check.positions:
        return ""
    random = Random(plan.suite.model.get("seed", 0))
    size = plan.suite.model.get("vocabulary", 2)
    ids = [random.randrange(size) for _ in range(check.positions)]
    differing = []
    for way in check.ways:
        reference: dict[str, list[float]] | None = None
        for standing in _running(outcome):
            if not standing.entry.checked:
                continue
            try:
                numbers = standing.worker.check({"ids": ids, "way": way})
            except ContenderLost as lost:
                standing.lose("failed", str(lost))
                continue
            reference = numbers if reference is None else reference
            worst, off = differences(numbers, reference)
            standing.difference[way] = off
            allowed = standing.entry.tolerance
            comparison = f"{way}: {worst} differ by {off:.1e} (allowed {allowed:.0e})"
            say(f"{standing.entry.key}: {comparison}")
            if not off <= allowed:
                standing.status, standing.why = "differs", comparison
                differing.append(f"{standing.entry.title} in {worst} by {off:.1e}")
    return f"results differ: {', '.join(differing)}" if differing else ""


def differences(
    tensors: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]]
) -> tuple[str, float]:
    """Find the tensor that differs most -> its relative rms difference, infinite if not finite."""
    if tensors.keys() != reference.keys():
        return "names", float("inf")
    off = {name: relative_rms(numbers, reference[name]) for name, numbers in tensors.items()}
    worst = max(off, key=lambda name: off[name] if off[name] == off[name] else float("inf"))
    return worst, off[worst]


def relative_rms(numbers: Sequence[float], reference: Sequence[float]) -> float:
    """Return the root of the mean square of the difference, over that of the reference."""
    if len(numbers) != len(reference):
        return float("inf")
    off = sum((a - b) ** 2 for a, b in zip(numbers, reference, strict=True))
    return sqrt(off / (sum(b * b for b in reference) or 1.0))


def _prepare(outcome: Outcome, say: Say) -> None:
    """Prepare every case once, untimed. A case that a contender refuses is left out for it."""
    for standing in _running(outcome):
        for case in list(standing.entry.cases):
            try:
                standing.cases[case] = standing.worker.prepare(case)
            except ContenderRefused as refused:
                standing.entry.cases.remove(case)
                standing.cases[case] = {"left_out": str(refused)}
                say(f"{standing.entry.key}: {case} is left out, {refused}")
                if not standing.entry.cases:
                    standing.lose("failed", f"{case}: {refused}")
            except ContenderLost as lost:
                standing.lose("lost", f"{case}: {lost}")
                say(f"{standing.entry.key}: lost in {case}, {lost}")
                break


def _take_turns(plan: Plan, outcome: Outcome, say: Say) -> None:
    keys = [standing.entry.key for standing in _running(outcome)]
    cases = _ordered_cases(outcome)
    for number in range(plan.suite.rounds + 1):
        counts = number > 0
        if counts:
            outcome.loads.append(load_average())
        turn = number % max(1, len(keys))
        for case in cases:
            for key in [*keys[turn:], *keys[:turn]]:
                standing = outcome.standings[key]
                if case in standing.entry.cases:
                    times = _one_turn(standing, case, plan.suite.count, say)
                    if counts:
                        standing.rounds.setdefault(case, []).append(times)
        say(f"{plan.name}: round {number} of {plan.suite.rounds}" if counts else "warmed up")


def _one_turn(standing: Standing, case: str, count: int, say: Say) -> Round | None:
    if standing.worker is None:
        return None
    try:
        return standing.worker.run(case, count)
    except ContenderLost as lost:
        standing.lose("lost", f"{case}: {lost}")
        say(f"{standing.entry.key}: lost, {lost}; the others go on")
        return None


def _ordered_cases(outcome: Outcome) -> list[str]:
    """List every case once, in the order in which the contenders name them."""
    entries = [standing.entry for standing in outcome.standings.values()]
    return list(dict.fromkeys(case for entry in entries for case in entry.cases))


def load_average() -> float:
    """Return the load of the last minute; -1 where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0
