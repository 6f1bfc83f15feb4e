"""Weighted sums of arms, and how sure one can be of them when training itself is repeated.

An arm that was trained several times has two sources of chance: which sentences were spoken, and
which seed it was trained with. They are crossed (every checkpoint speaks every sentence), so both
are resampled and their variances added. A comparison of two arms, the main effect of a factor and
an interaction are all the same thing here: a sum of arms with coefficients that add up to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist

import numpy as np

from wishbone.core.evaluate.statistics.paired import (
    DRAWS,
    Interval,
    bootstrap,
    sign_flip,
    student,
    two_sided,
)

_NORMAL_TAIL = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Tables:
    """The values of one metric, aligned: of several arms, for the prompts that all of them have."""

    arms: list[np.ndarray]
    """For each arm [K, U, R]: checkpoints, prompts, repeats; of a ratio the logarithms."""
    weights: np.ndarray
    """[U]: how much each prompt counts."""
    left_out: int
    """Prompts that not all arms have a value for."""

    @property
    def empty(self) -> bool:
        """True where no prompt has a value of every arm."""
        return not len(self.weights)


@dataclass(frozen=True)
class Contrast:
    """A sum of arms and what is known about it."""

    interval: Interval
    p: float
    """Two-sided, that the sum is zero: for new prompts and, where there are several checkpoints of
    each arm, new training seeds."""
    p_checkpoints: float
    """The same for these very checkpoints: the signs of the prompts' differences are flipped."""
    units: np.ndarray
    """[U] or [U, R]: the sum for each prompt, over checkpoints."""
    freedom: float | None
    """Degrees of freedom of the t that the interval and p use; None with one checkpoint an arm."""
    seed_share: float | None
    """Share of the variance that more prompts would not lessen: that of the training seeds."""


@dataclass(frozen=True)
class _Parts:
    """Variances of a contrast's estimate."""

    prompts: float
    seeds: float
    noise: float
    """Noise of single items, which both of the above count."""
    freedom_terms: float
    """Sum of squares over degrees of freedom (Satterthwaite 1946)."""

    @property
    def total(self) -> float:
        """Of the estimate; never less than what one of the two sources alone makes."""
        return max(self.prompts, self.seeds, self.prompts + self.seeds - self.noise)


def contrast(
    tables: Sequence[np.ndarray],
    coefficients: Sequence[float],
    weights: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Contrast:
    """``sum(c * mean(table))`` over arms; tables are [K, U, R] for K checkpoints, U prompts and R
    repeats, weights [U].

    With one checkpoint an arm this is the paired bootstrap and the sign-flip test over prompts.
    With several, checkpoints of an arm and prompts are resampled (Owen 2007, "The pigeonhole
    bootstrap"); the sum of both deviations is brought to the variance that the analysis of the
    crossed design gives, in which the noise of single items is counted once, and stretched from
    the normal to Student's t with Satterthwaite's degrees of freedom. Three seeds of two arms
    alone leave 4 of them: t is then 2.8 and not 2.0.
    """
    if all(len(table) == 1 for table in tables):
        units = sum(c * table[0] for c, table in zip(coefficients, tables, strict=True))
        interval = bootstrap(units, weights, draws=draws, seed=seed)
        p = sign_flip(units, weights, draws=draws, seed=seed)
        return Contrast(interval, p, p, units, None, None)
    cells = [table.mean(2) for table in tables]
    share = np.asarray(weights, float) / np.sum(weights)
    units = sum(c * cell.mean(0) for c, cell in zip(coefficients, cells, strict=True))
    means = [cell @ share for cell in cells]
    estimate = float(units @ share)
    fixed = sign_flip(units, weights, draws=draws, seed=seed)
    if len(units) < 2 or min(len(cell) for cell in cells) < 2:
        return Contrast(Interval(estimate, -inf, inf), 1.0, fixed, units, None, None)
    parts = _parts(cells, means, units, share, coefficients)
    both = parts.prompts + parts.seeds
    if both == 0:
        same = Interval(estimate, estimate, estimate)
        return Contrast(same, float(estimate == 0), fixed, units, None, None)
    freedom = max(1.0, parts.total**2 / parts.freedom_terms)
    random = np.random.default_rng(seed)
    moved = _moved_prompts(units, share, random, draws)
    for c, mean in zip(coefficients, means, strict=True):
        moved += c * _moved_seeds(mean, random, draws)
    stretch = sqrt(parts.total / both) * student(0.975, freedom) / _NORMAL_TAIL
    low, high = estimate + stretch * np.quantile(moved, [0.025, 0.975])
    p = two_sided(abs(estimate) / sqrt(parts.total), freedom)
    seeds = max(0.0, parts.seeds - parts.noise) / parts.total
    interval = Interval(estimate, float(low), float(high))
    return Contrast(interval, p, fixed, units, freedom, min(1.0, seeds))


def _parts(
    cells: Sequence[np.ndarray],
    means: Sequence[np.ndarray],
    units: np.ndarray,
    share: np.ndarray,
    coefficients: Sequence[float],
) -> _Parts:
    count = len(units)
    once = count / (count - 1)
    prompts = once * float((share**2 * (units - units @ share) ** 2).sum())
    terms = prompts**2 / (count - 1)
    seeds = noise = 0.0
    for c, cell, mean in zip(coefficients, cells, means, strict=True):
        checkpoints = len(cell)
        part = c**2 * float(mean.var(ddof=1)) / checkpoints
        residual = cell - cell.mean(0) - mean[:, None] + mean.mean()
        item = once * float((share**2 * residual**2).sum()) / (checkpoints - 1)
        item *= c**2 / checkpoints
        seeds, noise = seeds + part, noise + item
        terms += part**2 / (checkpoints - 1) + item**2 / ((checkpoints - 1) * (count - 1))
    return _Parts(prompts, seeds, noise, terms)


def _moved_prompts(
    units: np.ndarray, share: np.ndarray, random: np.random.Generator, draws: int
) -> np.ndarray:
    """Moves of the estimate with other prompts [draws], spread for few of them."""
    count = len(units)
    pick = random.integers(0, count, (draws, count))
    weight = share[pick]
    moved = (units[pick] * weight).sum(1) / weight.sum(1) - units @ share
    return moved * sqrt(count / (count - 1))


def _moved_seeds(mean: np.ndarray, random: np.random.Generator, draws: int) -> np.ndarray:
    """The same with other checkpoints of one arm."""
    count = len(mean)
    pick = random.integers(0, count, (draws, count))
    return (mean[pick].mean(1) - mean.mean()) * sqrt(count / (count - 1))
