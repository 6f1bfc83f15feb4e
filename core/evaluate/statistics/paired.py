"""The statistics of a paired comparison: how large a difference is, and how sure one can be.

Both arms speak the same prompts with the same seeds, so everything works on the differences per
prompt. A prompt is the unit: seeds inside a prompt, and prompts inside a voice, are not independent
witnesses, and intervals that count them as such are too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TypeVar

import numpy as np
import scipy

from wishbone.core.evaluate.result import PairedEffect

DRAWS = 10_000
"""Resamples: enough that the ends of an interval move by about 1 % of its width."""
FEWEST = 6
"""Units from which a sign-flip test can reach p < 0.05: 2 / 2^6 is 0.03, 2 / 2^5 is 0.06."""
POWER = 0.8
"""Chance of settling a question that sample sizes are computed for."""

_NORMAL = NormalDist()
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    estimate: float
    low: float
    high: float


def bootstrap(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Interval of the weighted mean of ``values`` [U] or [U, K] (K seeds of each of U units).

    Resamples groups (voices) where given, units within them, and seeds within units. The weights
    [U] travel with their unit, so that with the words of each sentence as weights this is the
    bootstrap of a corpus word error rate (Bisani and Ney 2004). The percentiles are spread as if
    for Student's t and by sqrt(n / (n - 1)), because plain ones are too narrow for few units
    (Hesterberg 2015, "What Teachers Should Know about the Bootstrap", section 5.3).
    """
    table = np.asarray(values, float)
    table = table[:, None] if table.ndim == 1 else table
    weight = np.ones(len(table)) if weights is None else np.asarray(weights, float)
    estimate = float((table.mean(1) * weight).sum() / weight.sum())
    labels = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    top = len(table) if labels is None else int(labels.max()) + 1
    if top < 2:
        return Interval(estimate, float("-inf"), float("inf"))
    means = _resampled(table, weight, labels, np.random.default_rng(seed), draws)
    tail = (1 - confidence) / 2
    spread = student(1 - tail, top - 1) * sqrt(top / (top - 1))
    outer = 1 - _NORMAL.cdf(spread)
    low, high = np.quantile(means, [outer, 1 - outer])
    return Interval(estimate, float(low), float(high))


def sign_flip(
    differences: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """Two-sided p of the paired permutation test on [U] or [U, K] differences.

    If the arms were alike, the sign of every unit's difference would be a coin. Exact where the
    units that differ have at most ``draws`` patterns of signs, else ``draws`` random patterns, the
    observed one among them. With ``groups`` whole groups change sign together, which is the test
    for a claim about new voices.
    """
    table = np.asarray(differences, float)
    unit = table if table.ndim == 1 else table.mean(1)
    unit = unit if weights is None else unit * np.asarray(weights, float)
    if groups is not None:
        labels = np.unique(np.asarray(groups), return_inverse=True)[1]
        unit = np.bincount(labels, weights=unit)
    unit = unit[unit != 0]
    if len(unit) < 2:
        # one sign alone is as extreme either way
        return 1.0
    scale = np.abs(unit).sum()

    def size(flipped: np.ndarray, axis: int = -1) -> np.ndarray:
        # sums that are equal on paper differ by rounding; those must count as at least as large
        return np.round(np.abs(flipped.sum(axis=axis)) / scale, 9)

    result = scipy.stats.permutation_test(
        (unit,),
        size,
        permutation_type="samples",
        alternative="greater",
        n_resamples=draws,
        vectorized=True,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def verdict(interval: Interval, margin: float, better: str) -> str:
    """ "better", "worse", "equivalent" or "inconclusive": what B is, against the margin.

    Equivalent when the whole interval lies within the margin, even if it leaves out zero: then
    there is a difference, too small to matter.
    """
    if -margin <= interval.low and interval.high <= margin:
        return "equivalent"
    if interval.low > 0 or interval.high < 0:
        return "better" if (interval.low > 0) == (better == "higher") else "worse"
    return "inconclusive"


def more_needed(interval: Interval, margin: float, units: int) -> int | None:
    """About how many more prompts would settle it, if the difference seen is the true one.

    A verdict falls when the interval's half width is below the distance from the estimate to zero
    or, for equivalence, to the margin; half widths shrink with the square root of the number of
    prompts. The number is for an 80 % chance. 0 when settled; None when no number can be given.
    """
    half = (interval.high - interval.low) / 2
    if verdict(interval, margin, "higher") != "inconclusive":
        return 0
    distance = max(abs(interval.estimate), margin - abs(interval.estimate))
    if not np.isfinite(half) or distance <= 0:
        return None
    factor = 1 + _NORMAL.inv_cdf(POWER) / _NORMAL.inv_cdf(0.975)
    return max(1, int(np.ceil(units * (factor * half / distance) ** 2)) - units)


def detectable(interval: Interval) -> float:
    """Smallest true difference that this many prompts would have shown with a chance of 80 %."""
    half = (interval.high - interval.low) / 2
    return half * (1 + _NORMAL.inv_cdf(POWER) / _NORMAL.inv_cdf(0.975))


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Interval of a rate (Wilson 1927); sensible at 0 and at all."""
    if not trials:
        return Interval(0.0, 0.0, 1.0)
    ends = scipy.stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(ends.low), float(ends.high))


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p that two arms fail equally often, from the items where only one failed."""
    trials = only_a + only_b
    return float(scipy.stats.binomtest(only_a, trials).pvalue) if trials else 1.0


def student(quantile: float, freedom: float) -> float:
    """Quantile of Student's t for any degrees of freedom."""
    return float(scipy.stats.t.ppf(quantile, freedom))


def two_sided(t: float, freedom: float) -> float:
    """Chance that Student's t lies farther from zero than ``t``."""
    return float(2 * scipy.stats.t.sf(t, freedom))


def holm(values: Mapping[Key, float]) -> dict[Key, float]:
    """p values corrected together so that any false alarm has the stated chance (Holm 1979)."""
    corrected: dict[Key, float] = {}
    highest = 0.0
    for rank, (key, value) in enumerate(sorted(values.items(), key=lambda pair: pair[1])):
        highest = max(highest, min(1.0, (len(values) - rank) * value))
        corrected[key] = highest
    return corrected


def effect(differences: np.ndarray, better: str) -> PairedEffect:
    """Standardised difference ``dz``, prompts won, tied and lost by B, and its chance to win."""
    unit = np.asarray(differences, float)
    unit = unit if unit.ndim == 1 else unit.mean(1)
    good = unit if better == "higher" else -unit
    wins, losses = int((good > 0).sum()), int((good < 0).sum())
    spread = float(unit.std(ddof=1)) if len(unit) > 1 else 0.0
    return PairedEffect(
        dz=float(unit.mean()) / spread if spread > 0 else 0.0,
        wins=wins,
        ties=len(unit) - wins - losses,
        losses=losses,
        superiority=(wins + (len(unit) - wins - losses) / 2) / len(unit),
    )


def _resampled(
    table: np.ndarray,
    weight: np.ndarray,
    labels: np.ndarray | None,
    random: np.random.Generator,
    draws: int,
) -> np.ndarray:
    """Weighted means of ``draws`` resamples [draws]."""
    units = len(table)
    groups = 0 if labels is None else int(labels.max()) + 1
    members = [np.flatnonzero(labels == group) for group in range(groups)]
    means = np.empty(draws)
    # 500 resamples at a time: a table of 1000 prompts and 3 seeds then needs 12 MB
    for start in range(0, draws, 500):
        size = min(500, draws - start)
        if not members:
            pick = random.integers(0, units, (size, units))
            means[start : start + size] = _means(table, weight, pick, random)
            continue
        for row in range(size):
            drawn = random.integers(0, len(members), len(members))
            pick = np.concatenate([random.choice(members[g], len(members[g])) for g in drawn])
            means[start + row] = _means(table, weight, pick[None], random)[0]
    return means


def _means(
    table: np.ndarray, weight: np.ndarray, pick: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Weighted mean of the picked units [R, U], their seeds drawn again."""
    seeds = table.shape[1]
    if seeds == 1:
        value = table[pick, 0]
    else:
        value = table[pick[..., None], random.integers(0, seeds, (*pick.shape, seeds))].mean(-1)
    chosen = weight[pick]
    return (value * chosen).sum(1) / chosen.sum(1)
