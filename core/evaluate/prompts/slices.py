"""Results by kind of sentence: exploratory, because nobody chose beforehand what to look at.

With seven kinds and several metrics some interval leaves out zero by chance alone, so there is no
verdict here; a kind that stands out is a reason for a comparison of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wishbone.core.contract.extensions.metric import MetricInfo, Row
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.measure.score import weighted_mean
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.result_parts import Slice
from wishbone.core.evaluate.statistics.metrics import metric_class, value, weight
from wishbone.core.evaluate.statistics.paired import bootstrap

FEWEST = 5
"""Sentences of a kind, below which nothing is shown of it."""


def kinds(prompts: Sequence[Prompt]) -> dict[str, list[Prompt]]:
    """Kind -> its prompts, in the order in which the kinds come up."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        for tag in prompt.tags or ():
            groups.setdefault(tag, []).append(prompt)
    return {tag: group for tag, group in groups.items() if len(group) >= FEWEST}


def slices(items: Items, plan: Plan) -> list[Slice]:
    """Every arm against the baseline on each kind of sentence, by the metrics of recordings."""
    baseline, *others = plan.arms
    results = []
    for tag, prompts in kinds(plan.prompts).items():
        for metric in plan.metrics.values():
            if metric_class(metric.key).source != "audio" or metric.ratio:
                continue
            for arm in others:
                rows = [
                    [
                        [
                            items.get(checkpoint.key, prompt.key, repeat).row
                            for checkpoint in side.checkpoints
                            for repeat in range(plan.seeds)
                        ]
                        for prompt in prompts
                    ]
                    for side in (baseline, arm)
                ]
                one = _slice(tag, arm.key, metric, *rows)
                results += [one] if one else []
    return results


def _slice(
    tag: str,
    arm: str,
    metric: MetricInfo,
    baseline: Sequence[Sequence[Row]],
    other: Sequence[Sequence[Row]],
) -> Slice | None:
    """Compare two arms' rows of each prompt; None where too few prompts have both."""
    pairs, weights = [], []
    for rows in zip(baseline, other, strict=True):
        means = [_mean([value(row, metric) for row in side]) for side in rows]
        if None not in means:
            pairs.append(means)
            weights.append(max(weight(row, metric) for side in rows for row in side))
    if len(pairs) < FEWEST:
        return None
    values, importance = np.array(pairs, float), np.array(weights)  # [U, 2], [U]
    interval = bootstrap(values[:, 1] - values[:, 0], importance)
    first, second = np.average(values, axis=0, weights=importance)
    return Slice(
        kind=tag,
        metric=metric.key,
        arm=arm,
        prompts=len(pairs),
        value_baseline=float(first),
        value=float(second),
        difference=float(second - first),
        low=float(interval.low),
        high=float(interval.high),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [number for number in values if number is not None]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None


def rates(rows: Mapping[str, Row], prompts: Sequence[Prompt], key: str) -> dict[str, float]:
    """Kind -> a metric's weighted mean over the rows of its prompts, which are named by key."""
    means = {}
    for tag, group in kinds(prompts).items():
        judged = [rows[prompt.key] for prompt in group if prompt.key in rows]
        mean, count = weighted_mean(judged, key)
        if count >= FEWEST:
            means[tag] = mean
    return means
