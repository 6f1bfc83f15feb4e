"""From items to a result: per metric the paired difference, how sure it is, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import exp
from typing import Any

import numpy as np

from wishbone.core.evaluate import statistics
from wishbone.core.evaluate.items import Items
from wishbone.core.evaluate.metrics import Metric
from wishbone.core.evaluate.plan import Plan

Row = Mapping[str, Any]


def value(row: Row, metric: Metric) -> float | None:
    """A metric's value for one item; None where it has none.

    A failed item has the worst value where the metric has one, whatever was measured of it.
    """
    if row.get("failure") and metric.worst is not None:
        return metric.worst
    if metric.key == "wer":
        if not row.get("words"):
            return None
        return 100 * min(row["errors"], row["words"]) / row["words"]
    found = row.get(metric.key)
    return None if found is None or row.get("failure") else float(found)


def table(items: Items, plan: Plan, arm: str, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Values [prompts, repeats], not-a-number where missing, and each prompt's weight.

    Word errors weigh as much as the prompt has words, so that their mean is the corpus rate.
    """
    values = np.full((len(plan.prompts), plan.seeds), np.nan)
    weights = np.ones(len(plan.prompts))
    for i, prompt in enumerate(plan.prompts):
        for repeat in range(plan.seeds):
            row = items.get(arm, prompt.key, repeat)
            found = value(row, metric)
            values[i, repeat] = np.nan if found is None else found
            if metric.key == "wer" and row.get("words"):
                weights[i] = row["words"]
    return values, weights


def compare(items: Items, plan: Plan, metric: Metric, arm: str, baseline: str) -> dict[str, Any]:
    """One metric of one arm against the baseline; empty when no prompt has both."""
    base, weights = table(items, plan, baseline, metric)
    other, _ = table(items, plan, arm, metric)
    whole = ~(np.isnan(base) | np.isnan(other)).any(axis=1)
    if not whole.any():
        return {}
    base, other, weights = base[whole], other[whole], weights[whole]
    difference = np.log(other / base) if metric.ratio else other - base
    interval = statistics.bootstrap(difference, weights)
    units = int(whole.sum())
    margin = float(np.log1p(metric.margin)) if metric.ratio else metric.margin
    p = statistics.sign_flip(difference, weights)
    verdict, more = _decide(interval, margin, metric, p, units)
    read = exp if metric.ratio else float
    return {
        "metric": metric.key,
        "arm": arm,
        "baseline": baseline,
        "value_baseline": _mean(base, weights, metric),
        "value": _mean(other, weights, metric),
        "difference": read(interval.estimate),
        "low": read(interval.low) if np.isfinite(interval.low) else None,
        "high": read(interval.high) if np.isfinite(interval.high) else None,
        "ratio": metric.ratio,
        "margin": metric.margin,
        "p": p,
        "verdict": "none" if plan.quick else verdict,
        "more_prompts": None if plan.quick else more,
        "detectable": _finite(statistics.detectable(interval)),
        "units": units,
        "left_out": int((~whole).sum()),
        "in_margins": _in_margins(interval, margin, metric),
        **statistics.effect(difference, metric.better),
    }


def _decide(
    interval: statistics.Interval, margin: float, metric: Metric, p: float, units: int
) -> tuple[str, int | None]:
    """The verdict, and about how many more prompts would settle it.

    The interval decides; a difference must also pass the sign-flip test, whose p cannot fall
    below 0.05 with fewer than ``FEWEST`` prompts, and with so few nothing is called equivalent.
    """
    verdict = statistics.verdict(interval, margin, metric.better)
    more = statistics.more_needed(interval, margin, units)
    few = units < statistics.FEWEST
    if few or (verdict in ("better", "worse") and p > 0.05):
        verdict = "inconclusive"
        more = None if more is None else max(more, statistics.FEWEST - units, 1)
    return verdict, more


def analyse(items: Items, plan: Plan) -> dict[str, Any]:
    """All metrics of all arms against the first one, failures, and each arm's own values."""
    baseline, *others = [arm.key for arm in plan.arms]
    comparisons = [
        found
        for other in others
        for metric in plan.metrics.values()
        if (found := compare(items, plan, metric, other, baseline))
    ]
    primary = {
        f"{each['arm']}/{each['metric']}": each["p"]
        for each in comparisons
        if plan.metrics[each["metric"]].primary
    }
    corrected = statistics.holm(primary)
    for each in comparisons:
        each["p_holm"] = corrected.get(f"{each['arm']}/{each['metric']}")
    return {
        "comparisons": comparisons,
        "failures": {arm.key: failures(items, plan, arm.key) for arm in plan.arms},
        "failure_tests": {other: _mcnemar(items, plan, other, baseline) for other in others},
        "values": {
            arm.key: {key: own(items, plan, arm.key, m) for key, m in plan.metrics.items()}
            for arm in plan.arms
        },
        "seed_spread": {arm.key: _seed_spread(items, plan, arm.key) for arm in plan.arms},
    }


def own(items: Items, plan: Plan, arm: str, metric: Metric) -> dict[str, Any] | None:
    """An arm's own value and its interval over prompts."""
    values, weights = table(items, plan, arm, metric)
    whole = ~np.isnan(values).any(axis=1)
    if not whole.any():
        return None
    values, weights = values[whole], weights[whole]
    interval = statistics.bootstrap(np.log(values) if metric.ratio else values, weights)
    read = exp if metric.ratio else float
    return {
        "value": _mean(values, weights, metric),
        "low": read(interval.low) if np.isfinite(interval.low) else None,
        "high": read(interval.high) if np.isfinite(interval.high) else None,
        "units": int(whole.sum()),
    }


def failures(items: Items, plan: Plan, arm: str) -> dict[str, Any]:
    """How many items failed, why, and the interval of the rate."""
    keys = [(p.key, repeat) for p in plan.prompts for repeat in range(plan.seeds)]
    rows = [items.get(arm, key, repeat) for key, repeat in keys]
    why: dict[str, int] = {}
    for row in rows:
        if row.get("failure"):
            why[row["failure"]] = why.get(row["failure"], 0) + 1
    count = sum(why.values())
    return {"items": len(rows), "why": why, **asdict(statistics.wilson(count, len(rows)))}


def _mcnemar(items: Items, plan: Plan, arm: str, baseline: str) -> float:
    """p that both fail equally often; a prompt counts as failed if any repeat of it did."""
    only = [0, 0]
    for prompt in plan.prompts:
        failed = [
            any(items.get(key, prompt.key, r).get("failure") for r in range(plan.seeds))
            for key in (baseline, arm)
        ]
        if failed[0] != failed[1]:
            only[failed[1]] += 1
    return statistics.mcnemar(*only)


def _seed_spread(items: Items, plan: Plan, arm: str) -> dict[str, float]:
    """Standard deviation of each metric's value over repeats of the whole prompt set."""
    if plan.seeds < 2:
        return {}
    spread = {}
    for key, metric in plan.metrics.items():
        values, weights = table(items, plan, arm, metric)
        if not np.isnan(values).any():
            spread[key] = float(np.average(values, axis=0, weights=weights).std(ddof=1))
    return spread


def _mean(values: np.ndarray, weights: np.ndarray, metric: Metric) -> float:
    rows = np.log(values).mean(1) if metric.ratio else values.mean(1)
    mean = float(np.average(rows, weights=weights))
    return exp(mean) if metric.ratio else mean


def _in_margins(
    interval: statistics.Interval, margin: float, metric: Metric
) -> Sequence[float | None]:
    """Estimate and ends in units of the margin, positive where the arm is better; for plots."""
    sign = 1 if metric.better == "higher" else -1
    ends = sorted(sign * end / margin for end in (interval.low, interval.high))
    return [sign * interval.estimate / margin, *(_finite(end) for end in ends)]


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
