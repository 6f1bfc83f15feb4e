"""Two results beside each other: the values of arms that both have, and all that differs."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, isfinite
from typing import Any

import numpy as np

from wishbone.core.evaluate.again import source, table_of, weights_of
from wishbone.core.evaluate.experiment.arms import flattened
from wishbone.core.evaluate.report import wording
from wishbone.core.evaluate.result import MetricFacts, Result
from wishbone.core.evaluate.statistics.paired import Interval, bootstrap
from wishbone.core.evaluate.statistics.study import aligned
from wishbone.core.report.table import Table

ABSENT = "-"


def values(one: Result, other: Result) -> Table:
    """Tabulate every metric of every arm that both results have, with its change.

    The interval is of 95 %, paired over the sentences that both have spoken; nobody planned this
    comparison, so that there is no verdict on the change. The last columns are the verdicts that
    each result gave.
    """
    rows = []
    arms = [arm.key for arm in one.arms if arm.key in {arm.key for arm in other.arms}]
    for arm in arms:
        for key, metric in other.metrics.items():
            if key not in one.metrics:
                continue
            before, after = _value(one, arm, key), _value(other, arm, key)
            rows.append(
                [
                    f"{arm}: {metric.title} ({metric.unit})",
                    wording.cell(before, metric),
                    wording.cell(after, metric),
                    *_change(one, other, arm, metric),
                    _verdict(one, arm, key),
                    _verdict(other, arm, key),
                ]
            )
    head = ["", "before", "after", "change", "interval", "sentences", "verdict", "then"]
    return Table("Values of the arms that both have", head, rows, ("verdict", "then"))


def conditions(one: Result, other: Result) -> Table:
    """Tabulate what was not the same: plan, engines, machine, versions, weights, configurations."""
    before, after = _conditions(one), _conditions(other)
    keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    rows = [[key, _shown(before, key), _shown(after, key)] for key in keys]
    return Table("What else differs", ["", "before", "after"], rows, ("before", "after"))


def _value(result: Result, arm: str, metric: str) -> float | None:
    estimate = result.analysis.values[arm].get(metric)
    return estimate.value if estimate else None


def _verdict(result: Result, arm: str, metric: str) -> str:
    rows = [c for c in result.analysis.comparisons if (c.arm, c.metric) == (arm, metric)]
    return rows[0].outcome.verdict if rows else "baseline"


def _change(one: Result, other: Result, arm: str, metric: MetricFacts) -> list[str]:
    """Cells of the paired change, its interval and how many units were paired."""
    paired = _paired(one, other, arm, metric)
    if paired is None:
        return [ABSENT, ABSENT, "0"]
    interval, units = paired
    if metric.ratio:
        parts = [
            f"{100 * (exp(x) - 1):+.1f}"
            for x in (interval.estimate, interval.low, interval.high)
            if isfinite(x)
        ]
        unit = " %"
    else:
        ends = (interval.estimate, interval.low, interval.high)
        parts, unit = [f"{x:+.{metric.digits}f}" for x in ends if isfinite(x)], ""
    ends = f"{parts[1]} to {parts[2]}{unit}" if len(parts) == 3 else "unknown"
    return [f"{parts[0]}{unit}", ends, str(units)]


def _paired(
    one: Result, other: Result, arm: str, metric: MetricFacts
) -> tuple[Interval, int] | None:
    """Change of an arm's metric over the units that both have; None where there are none."""
    tables, weights = [], np.ones(0)
    places = _shared(one, other, metric)
    for result, place in zip((one, other), places, strict=True):
        stored = result.raw.values.get(metric.key, {})
        checkpoints = next(a.checkpoints for a in result.arms if a.key == arm)
        if not place or not all(stored.get(checkpoint) for checkpoint in checkpoints):
            return None
        table = np.stack([table_of(stored[checkpoint]) for checkpoint in checkpoints])  # [K, U, R]
        if table.shape[1] <= max(place):
            return None
        tables.append(table[:, place])
        weights = weights_of(result, metric.key, table.shape[1])[place]
    rows = aligned(tables, weights, metric)
    if rows.empty:
        return None
    before, after = (arm_table.mean(axis=(0, 2)) for arm_table in rows.arms)  # [U]
    return bootstrap(after - before, rows.weights), len(rows.weights)


def _shared(one: Result, other: Result, metric: MetricFacts) -> tuple[list[int], list[int]]:
    """Places of the units that both results have: sentences by their text, or utterances."""
    if source(metric) == "model":
        counts = [_utterances(result, metric.key) for result in (one, other)]
        both = list(range(counts[0])) if counts[0] == counts[1] else []
        return both, both
    places = {prompt.text: place for place, prompt in enumerate(other.prompts)}
    pairs = [
        (place, places[prompt.text])
        for place, prompt in enumerate(one.prompts)
        if prompt.text in places
    ]
    return [first for first, _ in pairs], [second for _, second in pairs]


def _utterances(result: Result, metric: str) -> int:
    return max((len(rows) for rows in result.raw.values.get(metric, {}).values()), default=0)


def _conditions(result: Result) -> dict[str, Any]:
    """All that decides the values of a result, by dotted keys."""
    made = result.provenance
    arms = {arm.key: arm.config for arm in result.arms}
    facts = {
        "command": " ".join(made.command),
        "prompts": len(result.prompts),
        "seeds": result.seeds,
        "base seed": made.seed,
        "engines": result.costs.engines or {},
        "machine": f"{result.costs.machine.processor}, {result.costs.machine.threads} thread(s)",
        "gpu": result.costs.machine.gpu,
        "code": made.git,
        "python": made.python,
        "versions": made.distributions,
        "margins": {key: metric.margin for key, metric in result.metrics.items()},
        "signatures": result.signatures,
        "weights": made.weights,
        "configuration": arms,
    }
    return flattened(facts)


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = str(values.get(key, ABSENT))
    return text if len(text) <= 60 else f"{text[:57]}..."
