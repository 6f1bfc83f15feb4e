"""From items to a result: per metric the paired difference, how sure it is, and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, expm1
from typing import TypeVar

import numpy as np

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.experiment.items import UNMEASURED, Item, Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result import Analysis, Comparison, Estimate, Failures, Outcome, Prompt
from wishbone.core.evaluate.result_parts import Size
from wishbone.core.evaluate.statistics import counts, paired, sample_size
from wishbone.core.evaluate.statistics.contrast import Tables, contrast
from wishbone.core.evaluate.statistics.effects import effects
from wishbone.core.evaluate.statistics.metrics import facts
from wishbone.core.evaluate.statistics.study import (
    NOT_UNDERSTOOD,
    Losses,
    Study,
    item_tables,
    loss_tables,
)
from wishbone.core.evaluate.statistics.verdict import ALPHA, Asked, ask, judge

Summary = TypeVar("Summary")


def compare(
    items: Items, plan: Plan, metric: MetricInfo, arm: str, baseline: str
) -> Comparison | None:
    """Compare one metric of one arm with the baseline; None when no prompt has both.

    The metric is taken for the only one that a verdict is asked of.
    """
    tables = item_tables(items, plan, (baseline, arm), metric)
    if tables.empty:
        return None
    ((outcome, p_holm),) = judge([ask(tables, (-1, 1), metric)], ALPHA, plan.quick)
    return _comparison(tables, metric, (baseline, arm), outcome, p_holm)


def _comparison(
    tables: Tables,
    metric: MetricInfo,
    arms: tuple[str, str],
    outcome: Outcome,
    p_holm: float | None,
    sizes: list[Size] | None = None,
) -> Comparison:
    baseline, arm = (mean(values, tables.weights, metric) for values in tables.arms)
    units = tables.arms[1].mean((0, 2)) - tables.arms[0].mean((0, 2))  # [U]
    return Comparison(
        metric=metric.key,
        arm=arms[1],
        baseline=arms[0],
        value_baseline=baseline,
        value=arm,
        outcome=outcome,
        left_out=tables.left_out,
        pairs=paired.effect(units, metric.better),
        p_holm=p_holm,
        sizes=sizes,
    )


def analyse(
    items: Items,
    plan: Plan,
    losses: Losses | None = None,
    *,
    alpha: float = ALPHA,
    busy: str = "",
) -> Analysis:
    """All metrics of all arms against the first one, failures, and each arm's own values.

    ``losses`` is what ``held_out_loss.measure`` returns. ``alpha`` is what this look may use of
    the chance of a false alarm, ``busy`` why no verdict on speed is given.
    """
    return analysis(study_of(items, plan, losses, alpha, busy))


def study_of(
    items: Items, plan: Plan, losses: Losses | None, alpha: float = ALPHA, busy: str = ""
) -> Study:
    """The statistics' view of a run."""
    baseline, *others = [arm.key for arm in plan.arms]
    metrics = plan.listening | plan.metrics

    def tables(arms: Sequence[str], metric: MetricInfo) -> Tables:
        if metric.key in plan.listening:
            return loss_tables(losses or {}, plan, arms, metric)
        return item_tables(items, plan, arms, metric)

    return Study(
        arms={arm.key: [c.key for c in arm.checkpoints] for arm in plan.arms},
        levels=[arm.levels for arm in plan.arms],
        factors=plan.factors,
        metrics=metrics,
        sources={key: facts(metric).source or "" for key, metric in metrics.items()},
        tables=tables,
        failures={arm: failures(items, plan, arm) for arm in (baseline, *others)},
        failure_tests={arm: _mcnemar(items, plan, arm, baseline) for arm in others},
        words=counts.of_items(items, plan),
        seeds=plan.seeds,
        quick=plan.quick,
        available=max(plan.available, len(plan.prompts)),
        alpha=alpha,
        busy=busy,
    )


def analysis(study: Study) -> Analysis:
    """The statistics of a study."""
    values = _by_arm(study, _estimate)
    deaf = {
        arm
        for arm, own in values.items()
        if (wer := own.get("wer")) is not None and wer.value >= NOT_UNDERSTOOD
    }
    study = replace(study, not_understood=frozenset(deaf))
    return Analysis(
        comparisons=_comparisons(study),
        effects=effects(study) if study.factors else [],
        failures=dict(study.failures),
        failure_tests=dict(study.failure_tests),
        values=values,
        checkpoints=_by_arm(study, _checkpoint_means),
        seed_spread={arm: _seed_spread(study, arm) for arm in study.arms},
        words=dict(study.words) or None,
        not_understood=True if deaf == set(study.arms) else None,
    )


def _comparisons(study: Study) -> list[Comparison]:
    """Every metric of every arm against the baseline; the primary ones are one family."""
    family: list[tuple[Tables, MetricInfo, str, Asked]] = []
    for arm in [arm for arm in study.arms if arm != study.baseline]:
        for metric in study.metrics.values():
            pair = (study.baseline, arm)
            tables = study.tables(pair, metric)
            if not tables.empty:
                asked = ask(tables, (-1, 1), metric, study.withheld(metric, pair))
                family.append((tables, metric, arm, asked))
    outcomes = judge([asked for *_, asked in family], study.alpha, study.quick)
    return [
        _comparison(
            tables, metric, (study.baseline, arm), outcome, p_holm,
            _sizes(study, tables, asked, outcome.confidence),
        )
        for (tables, metric, arm, asked), (outcome, p_holm) in zip(family, outcomes, strict=True)
    ]  # fmt: skip


def _sizes(
    study: Study, tables: Tables, asked: Asked, confidence: float | None
) -> list[Size] | None:
    """Sizes of the study of a primary metric of items; None for others, and from too few."""
    metric = asked.metric
    if confidence is None or asked.withheld or study.sources.get(metric.key) == "model":
        return None
    if len(tables.weights) < 2:
        # a single prompt does not tell how prompts scatter
        return None
    if tables.voices > 1:
        # what more voices would show is another question, which nothing here was measured for
        return None
    spread = sample_size.scatter(tables.arms, (-1, 1), tables.weights, asked.contrast.trainings)
    now = (len(tables.weights), study.seeds)
    freedom = asked.contrast.freedom
    sizes = sample_size.curve(spread, now, study.available, confidence, freedom)
    if metric.key != "wer":
        # how repeats scatter was measured of word errors alone, so others need repeats of their own
        sizes = [size for size in sizes if not size.assumed]
    if metric.ratio:
        sizes = [replace(size, detectable=expm1(size.detectable)) for size in sizes]
    return sizes or None


def _by_arm(
    study: Study, summary: Callable[[Tables, MetricInfo], Summary]
) -> dict[str, dict[str, Summary]]:
    """Arm -> metric -> what ``summary`` makes of its table."""
    return {
        arm: {
            key: summary(study.tables((arm,), metric), metric)
            for key, metric in study.metrics.items()
        }
        for arm in study.arms
    }


def estimate(items: Items, plan: Plan, arm: str, metric: MetricInfo) -> Estimate | None:
    """An arm's own value and its interval over prompts and checkpoints."""
    return _estimate(item_tables(items, plan, (arm,), metric), metric)


def _estimate(tables: Tables, metric: MetricInfo) -> Estimate | None:
    if tables.empty:
        return None
    interval = contrast(tables.arms, (1,), tables.weights, voices=tables.voices).interval
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
    """Count the failed items and their reasons, with the interval of their rate.

    Items of one prompt fail together: the interval is over prompts. What could not be measured is
    no failure.
    """
    by_prompt = _by_sentence(items, plan, arm)
    spoken = [[item for item in takes if item.failure != UNMEASURED] for takes in by_prompt]
    why = Counter(item.failure for takes in spoken for item in takes if item.failed)
    failed = np.array([sum(item.failed for item in takes) for takes in spoken])
    rate = paired.clustered_rate(failed, max(map(len, by_prompt), default=0))
    return Failures(
        items=sum(map(len, spoken)),
        why=dict(why),
        estimate=rate.estimate,
        low=rate.low,
        high=rate.high,
    )


def _items_of(items: Items, plan: Plan, arm: str, prompt: Prompt) -> list[Item]:
    """All items of an arm and a prompt: of every checkpoint, every repeat."""
    keys = [c.key for a in plan.arms if a.key == arm for c in a.checkpoints]
    return [items.get(key, prompt.key, r) for r in range(plan.seeds) for key in keys]


def _by_sentence(items: Items, plan: Plan, arm: str) -> list[list[Item]]:
    """All items of an arm by what they say: several voices say the same sentences."""
    sentences: dict[str, list[Item]] = {}
    for number, prompt in enumerate(plan.prompts):
        name = prompt.text if plan.voices else str(number)
        sentences.setdefault(name, []).extend(_items_of(items, plan, arm, prompt))
    return list(sentences.values())


def _mcnemar(items: Items, plan: Plan, arm: str, baseline: str) -> float:
    """p that both fail equally often; a prompt counts as failed if any item of it did."""
    only = [0, 0]
    by_arm = [_by_sentence(items, plan, key) for key in (baseline, arm)]
    for takes in zip(*by_arm, strict=True):
        failed = [any(item.failed for item in side) for side in takes]
        if failed[0] != failed[1]:
            only[failed[1]] += 1
    return paired.mcnemar(*only)


def _seed_spread(study: Study, arm: str) -> dict[str, float]:
    """Standard deviation of each metric's value over repeats of the whole prompt set."""
    if study.seeds < 2:
        return {}
    spread = {}
    for key, metric in study.metrics.items():
        tables = study.tables((arm,), metric)
        if study.sources.get(key) != "model" and not tables.left_out and not tables.empty:
            (values,) = tables.arms  # [K, U, R]
            natural = np.exp(values) if metric.ratio else values
            repeats = np.average(natural, axis=1, weights=tables.weights)  # [K, R]
            spread[key] = float(repeats.std(axis=1, ddof=1).mean())
    return spread


def mean(values: np.ndarray, weights: np.ndarray, metric: MetricInfo) -> float:
    """The weighted mean of values [K, U, R]; of a ratio's logarithms, the geometric one."""
    average = float(np.average(values.mean((0, 2)), weights=weights))
    return exp(average) if metric.ratio else average
