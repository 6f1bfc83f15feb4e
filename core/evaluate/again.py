"""A result's statistics made again from its raw values: by the rules of today, with nothing spoken.

``wishbone ab --page JSON --recompute`` does this to results that are published: their values stay,
and what follows from them follows by the present rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.result import Failures, MetricFacts, Result
from wishbone.core.evaluate.statistics import counts, paired
from wishbone.core.evaluate.statistics.compare import analysis
from wishbone.core.evaluate.statistics.contrast import Tables
from wishbone.core.evaluate.statistics.metrics import HELD_OUT, SPEED
from wishbone.core.evaluate.statistics.study import Study, aligned
from wishbone.core.evaluate.statistics.verdict import ALPHA


def recomputed(result: Result) -> Result:
    """Return the result with its statistics made again. Raises ``KeyError`` for missing values."""
    return replace(result, analysis=analysis(study_of(result)))


def study_of(result: Result) -> Study:
    """The statistics' view of a result."""
    arms = {arm.key: arm.checkpoints for arm in result.arms}
    stored = result.analysis
    commitment = result.commitment

    def tables(chosen: Sequence[str], metric: MetricInfo) -> Tables:
        return _tables(result, [arms[arm] for arm in chosen], metric)

    return Study(
        arms=arms,
        levels=[arm.levels for arm in result.arms],
        factors=result.factors,
        metrics=result.metrics,
        sources={key: source(metric) for key, metric in result.metrics.items()},
        tables=tables,
        failures={arm: _failures(result, arm) for arm in arms},
        failure_tests=stored.failure_tests,
        words=stored.words or counts.of_raw(result.raw, arms),
        seeds=result.seeds,
        quick=result.quick,
        # older results do not say how long their list was
        available=max(result.available or 0, len(result.prompts)),
        alpha=commitment.alpha if commitment else ALPHA,
        busy=result.timing.busy if result.timing else "",
    )


def source(metric: MetricFacts) -> str:
    """Where a metric's values come from; results of Wishbone 0.1 do not say."""
    by_key = dict.fromkeys(HELD_OUT, "model") | dict.fromkeys(SPEED, "generation")
    return metric.source or by_key.get(metric.key, "audio")


def voices_of(result: Result) -> int:
    """Return how many voices say every prompt."""
    return len({prompt.voice for prompt in result.prompts}) or 1


def _tables(result: Result, arms: Sequence[Sequence[str]], metric: MetricInfo) -> Tables:
    raw = result.raw
    values = [
        np.stack([table_of(raw.values[metric.key][checkpoint]) for checkpoint in checkpoints])
        for checkpoints in arms
    ]  # of each arm [K, U, R]
    weights = weights_of(result, metric.key, values[0].shape[1])
    several = 1 if source(result.metrics[metric.key]) == "model" else voices_of(result)
    return aligned(values, weights, metric, several)


def weights_of(result: Result, metric: str, units: int) -> np.ndarray:
    """Return how much each unit counts in a metric [U]: in word errors, by its words."""
    raw = result.raw
    weights = raw.words if metric == "wer" else (raw.weights or {}).get(metric)
    return np.ones(units) if weights is None else np.asarray(weights, float)


def table_of(rows: Sequence[object]) -> np.ndarray:
    """Values of one checkpoint [U, R]; None is a value that is missing."""
    table = np.array(rows, float)
    return table.reshape(len(table), -1)


def _failures(result: Result, arm: str) -> Failures:
    """Failures with their interval over prompts; older results do not say which items failed."""
    stored = result.analysis.failures[arm]
    voices = voices_of(result)
    sentences = len(result.prompts) // voices
    tries = max(1, stored.items // max(1, sentences))
    if stored.count and result.raw.failed is None:
        # as if those of one prompt had all failed together
        rate = paired.wilson_rate(stored.estimate, sentences)
        return replace(stored, low=rate.low, high=rate.high)
    failed = np.zeros(len(result.prompts))
    for checkpoint in next(a.checkpoints for a in result.arms if a.key == arm):
        rows = (result.raw.failed or {}).get(checkpoint) or [[]] * len(failed)
        failed += [sum(reason in stored.why for reason in reasons) for reasons in rows]
    rate = paired.clustered_rate(failed.reshape(voices, -1).sum(0), tries)
    return replace(stored, low=rate.low, high=rate.high)
