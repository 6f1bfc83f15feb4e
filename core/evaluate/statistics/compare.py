"""From items to a result: per metric the paired difference, how sure it is, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import exp
from typing import Any

import numpy as np

from wishbone.core.contract.metric import MetricInfo
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan, Prompt
from wishbone.core.evaluate.statistics import effects, paired
from wishbone.core.evaluate.statistics.contrast import contrast
from wishbone.core.evaluate.statistics.metrics import value, weighs, weight
from wishbone.core.evaluate.statistics.verdict import described


def table(items: Items, plan: Plan, arm: str, metric: MetricInfo) -> tuple[np.ndarray, np.ndarray]:
    """Values [prompts, repeats], not-a-number where missing; weights [prompts], 0 where missing.

    Prompts weigh what the metric says: their words for word errors, so that their mean is the
    corpus rate.
    """
    values = np.full((len(plan.prompts), plan.seeds), np.nan)
    weights = np.zeros(len(plan.prompts))
    for i, prompt in enumerate(plan.prompts):
        for repeat in range(plan.seeds):
            row = items.get(arm, prompt.key, repeat)
            found = value(row, metric)
            values[i, repeat] = np.nan if found is None else found
            if row:
                weights[i] = max(weights[i], weight(row, metric))
    return values, weights


def tables(
    items: Items, plan: Plan, arms: Sequence[str], metric: MetricInfo
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Each arm's values [checkpoints, prompts, repeats], weights, and the prompts that all have.

    The values of other prompts are left out of both; ratios are logarithms.
    """
    known = {arm.key: arm.checkpoints for arm in plan.arms}
    keys = [[each.key for each in known[arm]] if arm in known else [arm] for arm in arms]
    found = [[table(items, plan, key, metric) for key in row] for row in keys]
    # a reference without any value of its own has no words either
    weights = np.max([weight for row in found for _, weight in row], axis=0)
    values = [np.stack([value for value, _ in row]) for row in found]
    return _whole(values, weights, metric)


def listened(
    measured: Mapping[str, Any], plan: Plan, arms: Sequence[str], metric: MetricInfo
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """As ``tables``, of what was measured on token data; its utterances weigh the same."""
    known = {arm.key: arm.checkpoints for arm in plan.arms}
    values = [
        np.stack([np.asarray(measured[each.key][metric.key]) for each in known[arm]])[..., None]
        for arm in arms
    ]
    return _whole(values, np.ones(values[0].shape[1]), metric)


def _whole(
    values: list[np.ndarray], weights: np.ndarray, metric: MetricInfo
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    whole = ~np.any([np.isnan(each).any(axis=(0, 2)) for each in values], axis=0)
    kept = [each[:, whole] for each in values]
    return [np.log(each) for each in kept] if metric.ratio else kept, weights[whole], whole


def compare(
    items: Items, plan: Plan, metric: MetricInfo, arm: str, baseline: str
) -> dict[str, Any]:
    """One metric of one arm against the baseline; empty when no prompt has both."""
    return against(tables(items, plan, (baseline, arm), metric), plan, metric, arm, baseline)


def against(
    found: tuple[list[np.ndarray], np.ndarray, np.ndarray],
    plan: Plan,
    metric: MetricInfo,
    arm: str,
    baseline: str,
) -> dict[str, Any]:
    """The comparison of two arms from their tables."""
    (base, other), weights, whole = found
    if not whole.any():
        return {}
    result = contrast([base, other], (-1, 1), weights)
    return {
        "metric": metric.key,
        "arm": arm,
        "baseline": baseline,
        "value_baseline": mean(base, weights, metric),
        "value": mean(other, weights, metric),
        **described(result, metric, plan.quick),
        "left_out": int((~whole).sum()),
        **paired.effect(result.units, metric.better),
    }


def analyse(items: Items, plan: Plan, measured: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All metrics of all arms against the first one, failures, and each arm's own values.

    ``measured`` is what ``listening.measure`` found of every checkpoint.
    """
    baseline, *others = [arm.key for arm in plan.arms]
    metrics = plan.listening | plan.metrics

    def rows(arms: Sequence[str], metric: MetricInfo) -> Any:
        if metric.key in plan.listening:
            return listened(measured or {}, plan, arms, metric)
        return tables(items, plan, arms, metric)

    comparisons = [
        found
        for other in others
        for metric in metrics.values()
        if (found := against(rows((baseline, other), metric), plan, metric, other, baseline))
    ]
    primary = {
        f"{each['arm']}/{each['metric']}": each["p"]
        for each in comparisons
        if metrics[each["metric"]].primary
    }
    corrected = paired.holm(primary)
    for each in comparisons:
        each["p_holm"] = corrected.get(f"{each['arm']}/{each['metric']}")
    every = [arm.key for arm in plan.arms]
    return {
        "comparisons": comparisons,
        "effects": [
            found
            for metric in metrics.values()
            for found in effects.effects(rows(every, metric), plan, metric)
        ]
        if plan.factors
        else [],
        "failures": {arm.key: failures(items, plan, arm.key) for arm in plan.arms},
        "failure_tests": {other: _mcnemar(items, plan, other, baseline) for other in others},
        "values": {
            key: {m.key: _value(rows((key,), m), m) for m in metrics.values()} for key in every
        },
        "checkpoints": {
            arm.key: {m.key: _each(rows((arm.key,), m), m) for m in metrics.values()}
            for arm in plan.arms
        },
        "seed_spread": {arm.key: _seed_spread(items, plan, arm.key) for arm in plan.arms},
    }


def own(items: Items, plan: Plan, arm: str, metric: MetricInfo) -> dict[str, Any] | None:
    """An arm's own value and its interval over prompts and checkpoints."""
    return _value(tables(items, plan, (arm,), metric), metric)


def _value(
    found: tuple[list[np.ndarray], np.ndarray, np.ndarray], metric: MetricInfo
) -> dict[str, Any] | None:
    (values,), weights, whole = found
    if not whole.any():
        return None
    interval = contrast([values], (1,), weights).interval
    read = exp if metric.ratio else float
    return {
        "value": mean(values, weights, metric),
        "low": read(interval.low) if np.isfinite(interval.low) else None,
        "high": read(interval.high) if np.isfinite(interval.high) else None,
        "units": int(whole.sum()),
    }


def _each(
    found: tuple[list[np.ndarray], np.ndarray, np.ndarray], metric: MetricInfo
) -> list[float]:
    """Every checkpoint's own value."""
    (values,), weights, whole = found
    return [mean(one[None], weights, metric) for one in values] if whole.any() else []


def failures(items: Items, plan: Plan, arm: str) -> dict[str, Any]:
    """How many items failed, why, and the interval of the rate."""
    rows = [row for prompt in plan.prompts for row in _said(items, plan, arm, prompt)]
    why: dict[str, int] = {}
    for row in rows:
        if row.get("failure"):
            why[row["failure"]] = why.get(row["failure"], 0) + 1
    count = sum(why.values())
    return {"items": len(rows), "why": why, **asdict(paired.wilson(count, len(rows)))}


def _said(items: Items, plan: Plan, arm: str, prompt: Prompt) -> list[Mapping[str, Any]]:
    """All items of an arm and a prompt: of every checkpoint, every repeat."""
    keys = [each.key for a in plan.arms if a.key == arm for each in a.checkpoints]
    return [items.get(key, prompt.key, r) for r in range(plan.seeds) for key in keys]


def _mcnemar(items: Items, plan: Plan, arm: str, baseline: str) -> float:
    """p that both fail equally often; a prompt counts as failed if any item of it did."""
    only = [0, 0]
    for prompt in plan.prompts:
        failed = [
            any(row.get("failure") for row in _said(items, plan, key, prompt))
            for key in (baseline, arm)
        ]
        if failed[0] != failed[1]:
            only[failed[1]] += 1
    return paired.mcnemar(*only)


def _seed_spread(items: Items, plan: Plan, arm: str) -> dict[str, float]:
    """Standard deviation of each metric's value over repeats of the whole prompt set."""
    if plan.seeds < 2:
        return {}
    spread = {}
    for key, metric in plan.metrics.items():
        (values,), weights, whole = tables(items, plan, (arm,), metric)
        if whole.all():
            shown = np.exp(values) if metric.ratio else values
            each = np.average(shown, axis=1, weights=weights)
            spread[key] = float(each.std(axis=1, ddof=1).mean())
    return spread


def mean(values: np.ndarray, weights: np.ndarray, metric: MetricInfo) -> float:
    """The weighted mean of values [K, U, R]; of a ratio's logarithms, the geometric one."""
    found = float(np.average(values.mean((0, 2)), weights=weights))
    return exp(found) if metric.ratio else found


def raw(items: Items, plan: Plan, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Every single value, from which all the rest follows: metric -> checkpoint -> its values.

    Of speech [prompts][repeats], of what was measured on token data [utterances]; None where an
    item has none. ``words`` are the weights of the word errors, ``weights`` those of other metrics.
    """
    found: dict[str, Any] = {
        metric.key: {each.key: measured[each.key][metric.key] for each in plan.checkpoints}
        for metric in plan.listening.values()
    }
    weights: dict[str, list[float]] = {}
    for metric in plan.metrics.values():
        rows = {each.key: table(items, plan, each.key, metric) for each in plan.checkpoints}
        found[metric.key] = {
            key: [[_finite(value) for value in row] for row in values.tolist()]
            for key, (values, _) in rows.items()
        }
        if weighs(metric):
            largest = np.max([row for _, row in rows.values()], axis=0)
            weights[metric.key] = np.where(largest > 0, largest, 1).tolist()
    words = weights.pop("wer", [1.0] * len(plan.prompts))
    return found | {"words": words} | ({"weights": weights} if weights else {})


def _finite(number: float) -> float | None:
    return round(number, 6) if np.isfinite(number) else None
