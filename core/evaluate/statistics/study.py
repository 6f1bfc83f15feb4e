"""An A/B as the statistics see it: arms, metrics, and every single value.

A study is of a run whose items lie in a folder, or of a result that was written down, whose raw
values say the same: ``compare.analyse`` makes the first, ``again.study_of`` the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result import Failures
from wishbone.core.evaluate.result_parts import WordCounts
from wishbone.core.evaluate.statistics.contrast import Tables
from wishbone.core.evaluate.statistics.metrics import value, weight
from wishbone.core.evaluate.statistics.verdict import ALPHA

Losses = Mapping[str, Mapping[str, Sequence[float]]]
"""Checkpoint -> metric -> its value for each held-out utterance."""
NOT_UNDERSTOOD = 80.0
"""Percent of wrong words from which an arm counts as not understood: what is left is chance, and
differences of quality between such arms say nothing about speech."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that the statistics need."""

    arms: Mapping[str, Sequence[str]]
    """Arm -> its checkpoints; the first arm is the baseline."""
    levels: Sequence[Mapping[str, str]]
    """For each arm, its cell in the table of factors."""
    factors: Mapping[str, Sequence[str]]
    metrics: Mapping[str, MetricInfo]
    sources: Mapping[str, str]
    """Metric -> "audio", "generation" or "model"."""
    tables: Callable[[Sequence[str], MetricInfo], Tables]
    """Values of arms, aligned over prompts or utterances."""
    failures: Mapping[str, Failures]
    failure_tests: Mapping[str, float]
    words: Mapping[str, WordCounts]
    seeds: int
    quick: bool
    available: int
    """Prompts that could be spoken."""
    alpha: float = ALPHA
    """Chance of a false alarm that this look may use; 0 where none was planned."""
    busy: str = ""
    """Why no verdict on speed is given, or ""."""
    not_understood: frozenset[str] = field(default_factory=frozenset)
    """Arms of whose words nearly all are wrong."""

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.arms))

    def withheld(self, metric: MetricInfo, arms: Sequence[str]) -> str:
        """Return why a comparison of these arms gets no verdict, or ""."""
        source = self.sources.get(metric.key)
        if self.alpha <= 0:
            return "this look was not planned"
        if source == "generation" and self.busy:
            return "the machine was busy"
        if source == "audio" and all(arm in self.not_understood for arm in arms):
            return "no arm is understood"
        return ""


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
    values = [np.stack([values for values, _ in arm]) for arm in tables]
    return aligned(values, weights, metric, max(1, len(plan.voices)))


def loss_tables(losses: Losses, plan: Plan, arms: Sequence[str], metric: MetricInfo) -> Tables:
    """Align what was measured on held-out utterances, which weigh the same."""
    checkpoints = {arm.key: arm.checkpoints for arm in plan.arms}
    values = [
        np.stack([np.asarray(losses[c.key][metric.key]) for c in checkpoints[arm]])[..., None]
        for arm in arms
    ]
    return aligned(values, np.ones(values[0].shape[1]), metric)


def aligned(
    arms: list[np.ndarray], weights: np.ndarray, metric: MetricInfo, voices: int = 1
) -> Tables:
    """Keep the prompts [U] that all arms [K, U, R] have every value of; of ratios, logarithms.

    With several voices, a prompt is kept where all voices have it in all arms.
    """
    complete = ~np.any([np.isnan(values).any(axis=(0, 2)) for values in arms], axis=0)
    if voices > 1:
        complete = np.tile(complete.reshape(voices, -1).all(0), voices)
    selected = [values[:, complete] for values in arms]
    if metric.ratio:
        selected = [np.log(values) for values in selected]
    return Tables(selected, weights[complete], int((~complete).sum()), voices)
