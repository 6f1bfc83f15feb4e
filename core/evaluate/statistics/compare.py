"""From items to a result: per metric the paired difference, how sure it is, and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import exp
from typing import TypeVar

import numpy as np

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.experiment.items import Item, Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result import Analysis, Comparison, Estimate, Failures, Prompt, Raw
from wishbone.core.evaluate.statistics import effects, paired
from wishbone.core.evaluate.statistics.contrast import Tables, contrast
from wishbone.core.evaluate.statistics.metrics import value, weighs, weight
from wishbone.core.evaluate.statistics.verdict import outcome

Summary = TypeVar("Summary")
Losses = Mapping[str, Mapping[str, Sequence[float]]]
"""Checkpoint -> metric -> its value for each held-out utterance."""


def item_table(
    items: Items, plan: Plan, checkpoint: str, metric: MetricInfo
) -> tuple[np.ndarray, np.ndarray]:
    """Values [U, R] of prompts and repeats, NaN where missing; weights [U], 0 where missing.

    Prompts weigh what the metric says: their words for word errors, so that their mean is the
    corpus rate.
    """
    values = np.full((len(plan.prompts), plan.seeds), np.nan)
    weights = np.zeros(len(plan.prompts))
    for i, prompt in enumerate(plan.prompts):
        for repeat in range(plan.seeds):
            row = items.get(checkpoint, prompt.key, repeat).row
            number = value(row, metric)
            values[i, repeat] = np.nan if number is None else number
            if row:
                weights[i] = max(weights[i], weight(row, metric))
    return values, weights


def item_tables(items: Items, plan: Plan, arms: Sequence[str], metric: MetricInfo) -> Tables:
    """Align the values of arms over the prompts; an arm may be the reference."""
    checkpoints = {arm.key: [c.key for c in arm.checkpoints] for arm in plan.arms}
    tables = [
        [item_table(items, plan, key, metric) for key in checkpoints.get(arm, [arm])]
        for arm in arms
    ]
    # a reference without any value of its own has no words either
    weights = np.max([weights for arm in tables for _, weights in arm], axis=0)
    return _aligned([np.stack([values for values, _ in arm]) for arm in tables], weights, metric)


def loss_tables(losses: Losses, plan: Plan, arms: Sequence[str], metric: MetricInfo) -> Tables:
    """Align what was measured on held-out utterances, which weigh the same."""
    checkpoints = {arm.key: arm.checkpoints for arm in plan.arms}
    values = [
        np.stack([np.asarray(losses[c.key][metric.key]) for c in checkpoints[arm]])[..., None]
        for arm in arms
    ]
    return _aligned(values, np.ones(values[0].shape[1]), metric)


def _aligned(arms: list[np.ndarray], weights: np.ndarray, metric: MetricInfo) -> Tables:
    complete = ~np.any([np.isnan(values).any(axis=(0, 2)) for values in arms], axis=0)
    selected = [values[:, complete] for values in arms]
    if metric.ratio:
        selected = [np.log(values) for values in selected]
    return Tables(selected, weights[complete], int((~complete).sum()))


def compare(
    items: Items, plan: Plan, metric: MetricInfo, arm: str, baseline: str
) -> Comparison | None:
    """Compare one metric of one arm with the baseline; None when no prompt has both."""
    tables = item_tables(items, plan, (baseline, arm), metric)
    return compare_tables(tables, plan, metric, arm, baseline)


def compare_tables(
    tables: Tables, plan: Plan, metric: MetricInfo, arm: str, baseline: str
) -> Comparison | None:
    """Compare two arms, given as the tables of the baseline and the arm."""
    if tables.empty:
        return None
    result = contrast(tables.arms, (-1, 1), tables.weights)
    value_baseline, value_arm = (mean(values, tables.weights, metric) for values in tables.arms)
    return Comparison(
        metric=metric.key,
        arm=arm,
        baseline=baseline,
        value_baseline=value_baseline,
        value=value_arm,
        outcome=outcome(result, metric, plan.quick),
        left_out=tables.left_out,
        pairs=paired.effect(result.units, metric.better),
        p_holm=None,
    )


def analyse(items: Items, plan: Plan, losses: Losses | None = None) -> Analysis:
    """All metrics of all arms against the first one, failures, and each arm's own values.

    ``losses`` is what ``held_out_loss.measure`` returns.
    """
    baseline, *others = [arm.key for arm in plan.arms]
    every = [baseline, *others]
    metrics = plan.listening | plan.metrics

    def tables(arms: Sequence[str], metric: MetricInfo) -> Tables:
        if metric.key in plan.listening:
            return loss_tables(losses or {}, plan, arms, metric)
        return item_tables(items, plan, arms, metric)

    comparisons = [
        compare_tables(tables((baseline, arm), metric), plan, metric, arm, baseline)
        for arm in others
        for metric in metrics.values()
    ]
    return Analysis(
        comparisons=_corrected([one for one in comparisons if one is not None], metrics),
        effects=[
            effect
            for metric in (metrics.values() if plan.factors else ())
            for effect in effects.effects(tables(every, metric), plan, metric)
        ],
        failures={arm: failures(items, plan, arm) for arm in every},
        failure_tests={arm: _mcnemar(items, plan, arm, baseline) for arm in others},
        values=_by_arm(every, metrics, tables, _estimate),
        checkpoints=_by_arm(every, metrics, tables, _checkpoint_means),
        seed_spread={arm: _seed_spread(items, plan, arm) for arm in every},
    )


def _corrected(
    comparisons: Sequence[Comparison], metrics: Mapping[str, MetricInfo]
) -> list[Comparison]:
    """The comparisons with p of the primary metrics corrected for all of these together."""
    primary = {
        (one.arm, one.metric): one.outcome.p for one in comparisons if metrics[one.metric].primary
    }
    p_holm = paired.holm(primary)
    return [replace(one, p_holm=p_holm.get((one.arm, one.metric))) for one in comparisons]


def _by_arm(
    arms: Sequence[str],
    metrics: Mapping[str, MetricInfo],
    tables: Callable[[Sequence[str], MetricInfo], Tables],
    summary: Callable[[Tables, MetricInfo], Summary],
) -> dict[str, dict[str, Summary]]:
    """Arm -> metric -> what ``summary`` makes of its table."""
    return {
        arm: {key: summary(tables((arm,), metric), metric) for key, metric in metrics.items()}
        for arm in arms
    }


def estimate(items: Items, plan: Plan, arm: str, metric: MetricInfo) -> Estimate | None:
    """An arm's own value and its interval over prompts and checkpoints."""
    return _estimate(item_tables(items, plan, (arm,), metric), metric)


def _estimate(tables: Tables, metric: MetricInfo) -> Estimate | None:
    if tables.empty:
        return None
    interval = contrast(tables.arms, (1,), tables.weights).interval
    read = exp if metric.ratio else float
    return Estimate(
        value=mean(tables.arms[0], tables.weights, metric),
        low=read(interval.low) if np.isfinite(interval.low) else None,
        high=read(interval.high) if np.isfinite(interval.high) else None,
        units=len(tables.weights),
    )


def _checkpoint_means(tables: Tables, metric: MetricInfo) -> list[float]:
    """Every checkpoint's own value."""
    if tables.empty:
        return []
    return [mean(values[None], tables.weights, metric) for values in tables.arms[0]]


def failures(items: Items, plan: Plan, arm: str) -> Failures:
    """Count the failed items and their reasons, with the interval of their rate."""
    spoken = [item for prompt in plan.prompts for item in _items_of(items, plan, arm, prompt)]
    why = Counter(item.failure for item in spoken if item.failure)
    rate = paired.wilson(why.total(), len(spoken))
    return Failures(
        items=len(spoken), why=dict(why), estimate=rate.estimate, low=rate.low, high=rate.high
    )


def _items_of(items: Items, plan: Plan, arm: str, prompt: Prompt) -> list[Item]:
    """All items of an arm and a prompt: of every checkpoint, every repeat."""
    keys = [c.key for a in plan.arms if a.key == arm for c in a.checkpoints]
    return [items.get(key, prompt.key, r) for r in range(plan.seeds) for key in keys]


def _mcnemar(items: Items, plan: Plan, arm: str, baseline: str) -> float:
    """p that both fail equally often; a prompt counts as failed if any item of it did."""
    only = [0, 0]
    for prompt in plan.prompts:
        failed = [
            any(item.failure for item in _items_of(items, plan, key, prompt))
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
        tables = item_tables(items, plan, (arm,), metric)
        if not tables.left_out:
            (values,) = tables.arms  # [K, U, R]
            natural = np.exp(values) if metric.ratio else values
            repeats = np.average(natural, axis=1, weights=tables.weights)  # [K, R]
            spread[key] = float(repeats.std(axis=1, ddof=1).mean())
    return spread


def mean(values: np.ndarray, weights: np.ndarray, metric: MetricInfo) -> float:
    """The weighted mean of values [K, U, R]; of a ratio's logarithms, the geometric one."""
    average = float(np.average(values.mean((0, 2)), weights=weights))
    return exp(average) if metric.ratio else average


def raw(items: Items, plan: Plan, losses: Losses) -> Raw:
    """Every single value, from which all else follows."""
    values: dict[str, dict[str, list]] = {
        key: {c.key: list(losses[c.key][key]) for c in plan.checkpoints} for key in plan.listening
    }
    weights: dict[str, list[float]] = {}
    for key, metric in plan.metrics.items():
        tables = {c.key: item_table(items, plan, c.key, metric) for c in plan.checkpoints}
        values[key] = {
            checkpoint: [[_finite(number) for number in row] for row in numbers.tolist()]
            for checkpoint, (numbers, _) in tables.items()
        }
        if weighs(metric):
            largest = np.max([row for _, row in tables.values()], axis=0)
            weights[key] = np.where(largest > 0, largest, 1).tolist()
    words = weights.pop("wer", [1.0] * len(plan.prompts))
    return Raw(values=values, words=words, weights=weights or None)


def _finite(number: float) -> float | None:
    return round(number, 6) if np.isfinite(number) else None
