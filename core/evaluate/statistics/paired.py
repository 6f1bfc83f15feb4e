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
    """An estimate and its interval, of 95 % where nothing else is said."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """A weighted mean, drawn again many times from other units."""

    estimate: float
    means: np.ndarray
    """[draws]; empty where one unit alone says nothing about others."""
    units: int
    """Units, or groups of them, that were drawn from."""

    def interval(self, confidence: float = 0.95) -> Interval:
        """Percentiles, spread as if for Student's t and by sqrt(n / (n - 1)).

        Plain ones are too narrow for few units (Hesterberg 2015, "What Teachers Should Know about
        the Bootstrap", section 5.3).
        """
        if not len(self.means):
            return Interval(self.estimate, float("-inf"), float("inf"))
        tail = (1 - confidence) / 2
        spread = student(1 - tail, self.units - 1) * sqrt(self.units / (self.units - 1))
        outer = 1 - _NORMAL.cdf(spread)
        low, high = np.quantile(self.means, [outer, 1 - outer])
        return Interval(self.estimate, float(low), float(high))


def bootstrap(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Interval of the weighted mean of ``values`` [U] or [U, K] (K repeats of each of U units)."""
    return resamples(values, weights, groups=groups, draws=draws, seed=seed).interval(confidence)


def resamples(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Resamples:
    """Draw the weighted mean of ``values`` [U] or [U, K] again and again.

    Resamples groups (voices) where given, and units within them. A unit's repeats are averaged
    first: their noise is part of how units differ, and drawing them again would count it twice. The
    weights [U] travel with their unit, so that with the words of each sentence as weights this is
    the bootstrap of a corpus word error rate (Bisani and Ney 2004).
    """
    table = np.asarray(values, float)
    unit = table if table.ndim == 1 else table.mean(1)  # [U]
    weight = np.ones(len(unit)) if weights is None else np.asarray(weights, float)
    estimate = float((unit * weight).sum() / weight.sum())
    labels = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    top = len(unit) if labels is None else int(labels.max()) + 1
    if top < 2:
        return Resamples(estimate, np.zeros(0), top)
    means = _resampled(unit, weight, labels, np.random.default_rng(seed), draws)
    return Resamples(estimate, means, top)


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


def detectable(interval: Interval, confidence: float = 0.95) -> float:
    """Smallest true difference that this many prompts would have shown with a chance of 80 %."""
    half = (interval.high - interval.low) / 2
    return half * (1 + _NORMAL.inv_cdf(POWER) / _NORMAL.inv_cdf((1 + confidence) / 2))


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Interval of a rate (Wilson 1927); sensible at 0 and at all."""
    return wilson_rate(successes / trials, trials, confidence) if trials else Interval(0, 0, 1)


def clustered_rate(counts: np.ndarray, trials: int) -> Interval:
    """Interval of a rate over units that were tried ``trials`` times each; counts [U] of successes.

    Tries of one unit are alike, so that they tell less than as many units would: Wilson's interval
    of the number of independent tries that would scatter as the units do (the design effect; Korn
    and Graubard 1998). Where no or every try succeeded nothing shows how alike they are, and only
    units count.
    """
    counts = np.asarray(counts, float)
    units = len(counts)
    if not units:
        return wilson(0, 0)
    rate = float(counts.sum()) / (units * trials)
    if units < 2 or rate in (0.0, 1.0):
        return wilson_rate(rate, units)
    between = float(counts.var(ddof=1)) / trials**2
    effect_of_design = max(1.0, between * trials / (rate * (1 - rate)))
    # how alike they are is itself known from those units alone that any try succeeded on
    fewer = (_NORMAL.inv_cdf(0.975) / student(0.975, 1.0 + float((counts > 0).sum()))) ** 2
    return wilson_rate(rate, max(float(units), units * trials * fewer / effect_of_design))


def wilson_rate(rate: float, trials: float, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a rate from any number of tries, whole or not."""
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    return Interval(rate, max(0.0, middle - half), min(1.0, middle + half))


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
    unit: np.ndarray,
    weight: np.ndarray,
    labels: np.ndarray | None,
    random: np.random.Generator,
    draws: int,
) -> np.ndarray:
    """Weighted means of ``draws`` resamples [draws]."""
    units = len(unit)
    groups = 0 if labels is None else int(labels.max()) + 1
    members = [np.flatnonzero(labels == group) for group in range(groups)]
    means = np.empty(draws)
    # 500 resamples at a time: 1000 prompts then need 4 MB
    for start in range(0, draws, 500):
        size = min(500, draws - start)
        if not members:
            pick = random.integers(0, units, (size, units))
            means[start : start + size] = _means(unit, weight, pick)
            continue
        for row in range(size):
            drawn = random.integers(0, len(members), len(members))
            pick = np.concatenate([random.choice(members[g], len(members[g])) for g in drawn])
            means[start + row] = _means(unit, weight, pick[None])[0]
    return means


def _means(unit: np.ndarray, weight: np.ndarray, pick: np.ndarray) -> np.ndarray:
    """Weighted mean of the picked units [R, U]."""
    chosen = weight[pick]
    return (unit[pick] * chosen).sum(1) / chosen.sum(1)
