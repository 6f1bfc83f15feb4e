"""Weighted sums of arms, and how sure one can be of them when training itself is repeated.

An arm that was trained several times has two sources of chance: which sentences were spoken, and
which seed it was trained with. They are crossed (every checkpoint speaks every sentence), so both
count, and their variances are added. A comparison of two arms, the main effect of a factor and
an interaction are all the same thing here: a sum of arms with coefficients that add up to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from wishbone.core.evaluate.statistics.paired import (
    DRAWS,
    Interval,
    resamples,
    sign_flip,
    student,
    two_sided,
)


@dataclass(frozen=True)
class Tables:
    """The values of one metric, aligned: of several arms, for the prompts that all of them have."""

    arms: list[np.ndarray]
    """For each arm [K, U, R]: checkpoints, prompts, repeats; of a ratio the logarithms."""
    weights: np.ndarray
    """[U]: how much each prompt counts."""
    left_out: int
    """Prompts that not all arms have a value for."""
    voices: int = 1
    """Voices that say every prompt: U is all prompts in the first one, then all in the second."""

    @property
    def empty(self) -> bool:
        """True where no prompt has a value of every arm."""
        return not len(self.weights)


@dataclass(frozen=True)
class Contrast:
    """A sum of arms and what is known about it."""

    interval: Interval
    """Of 95 %."""
    p: float
    """Two-sided, that the sum is zero: for new prompts and, where there are several checkpoints of
    each arm, new training seeds."""
    p_checkpoints: float
    """The same for these very checkpoints: the signs of the prompts' differences are flipped."""
    units: np.ndarray
    """[U]: the sum for each prompt, over checkpoints and repeats."""
    freedom: float | None
    """Degrees of freedom of the t that the interval and p use; None with one checkpoint an arm."""
    seed_share: float | None
    """Share of the variance that more prompts would not lessen: that of the training seeds."""
    at: Callable[[float], Interval]
    """Confidence -> interval."""
    trainings: float = 0.0
    """Variance of the estimate from training seeds."""


@dataclass(frozen=True)
class _Parts:
    """Variances of a contrast's estimate."""

    prompts: float
    seeds: float
    noise: float
    """Noise of single items, which both of the above count."""
    freedom_prompts: float
    """Square of ``prompts`` over its degrees of freedom (Satterthwaite 1946)."""
    freedom_seeds: float
    """The same of ``seeds``, summed over arms."""
    checkpoints: int
    """Fewest of any arm."""

    @property
    def excess(self) -> float:
        """Variance of the training seeds beyond the noise of items; 0 where none shows."""
        return max(0.0, self.seeds - self.noise)

    @property
    def freedom_counted(self) -> float:
        """``freedom_seeds``, as far as it counts.

        The few trainings count as far as they show beyond noise, by the square root, and with two
        or three of them a part in any case: that none shows is then weak evidence. The part was
        chosen by simulation (``wishbone evaluate calibration``).
        """
        shown = sqrt(self.excess / self.seeds) if self.seeds else 0.0
        least = 1 / (self.checkpoints * (self.checkpoints - 1))
        return max(shown, least) * self.freedom_seeds


def _total(parts: Sequence[_Parts]) -> float:
    """Variance of the estimate; never less than what one of the sources alone makes."""
    prompts = parts[0].prompts
    least = 0.0 if prompts else max(part.seeds for part in parts)
    return max(prompts + sum(part.excess for part in parts), least)


def _freedom(parts: Sequence[_Parts]) -> float:
    """Degrees of freedom of ``_total``."""
    below = parts[0].freedom_prompts + sum(part.freedom_counted for part in parts)
    return max(1.0, _total(parts) ** 2 / below)


def contrast(
    tables: Sequence[np.ndarray],
    coefficients: Sequence[float],
    weights: np.ndarray,
    *,
    voices: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
) -> Contrast:
    """``sum(c * mean(table))`` over arms; tables are [K, U, R] for K checkpoints, U prompts and R
    repeats, weights [U].

    Repeats are averaged within their prompt. With one checkpoint an arm this is the paired
    bootstrap and the sign-flip test over prompts. With several, checkpoints and prompts are
    crossed: the variance is that of prompts plus what training seeds add to it, in which the noise
    of single items is counted once, and interval and p are Student's t with Satterthwaite's
    degrees of freedom, so that they always agree. Three seeds of two arms alone leave 4 of them: t
    is then 2.8 and not 2.0.

    Several ``voices``, which all say every prompt in both arms, are crossed with prompts in the
    same way, so that interval and p are for new voices, too.
    """
    cells = [table.mean(2) for table in tables]
    units = sum(c * cell.mean(0) for c, cell in zip(coefficients, cells, strict=True))
    # a prompt changes its sign in all voices together
    groups = np.tile(np.arange(len(units) // voices), voices) if voices > 1 else None
    fixed = sign_flip(units, weights, groups=groups, draws=draws, seed=seed)
    if voices == 1 and all(len(table) == 1 for table in tables):
        drawn = resamples(units, weights, draws=draws, seed=seed)
        return Contrast(drawn.interval(), fixed, fixed, units, None, None, drawn.interval)
    trainings = [len(cell) for cell in cells]
    by_voice = units.reshape(voices, -1)  # [V, P]
    share = np.asarray(weights, float).reshape(voices, -1).mean(0)  # [P]
    share /= share.sum()
    estimate = float(by_voice.mean(0) @ share)
    if by_voice.shape[1] < 2 or max(trainings) > 1 and min(trainings) < 2:
        unknown = Interval(estimate, -inf, inf)
        return Contrast(unknown, 1.0, fixed, units, None, None, lambda _: unknown)
    parts = []
    if max(trainings) > 1:
        over = [cell.reshape(len(cell), voices, -1).mean(1) for cell in cells]  # [K, P] each
        parts.append(_parts(over, by_voice.mean(0), share, coefficients))
    excess = sum(part.excess for part in parts)
    if voices > 1:
        parts.append(_parts([by_voice], by_voice.mean(0), share, (1.0,)))
    total = _total(parts)
    if total == 0:
        same = Interval(estimate, estimate, estimate)
        return Contrast(same, float(estimate == 0), fixed, units, None, None, lambda _: same)
    deviation, freedom = sqrt(total), _freedom(parts)

    def at(confidence: float) -> Interval:
        half = deviation * student((1 + confidence) / 2, freedom)
        return Interval(estimate, estimate - half, estimate + half)

    p = two_sided(abs(estimate) / deviation, freedom)
    seeds = min(1.0, excess / total) if max(trainings) > 1 else None
    return Contrast(at(0.95), p, fixed, units, freedom, seeds, at, excess)


def lost_sentence(
    tables: Sequence[np.ndarray], coefficients: Sequence[float], weights: np.ndarray, worst: float
) -> tuple[float, ...]:
    """Moves of the contrast if an arm lost one more sentence, one of each arm.

    The sentence is one item, of average weight, with the value of a failed one. Sentences that an
    arm loses rarely are not in a sample of a hundred, and no interval of what is in it knows them.
    """
    share = np.asarray(weights, float) / np.sum(weights)
    count = len(share) + 1
    return tuple(
        c * (worst - float(table.mean((0, 2)) @ share)) / (count * table.shape[0] * table.shape[2])
        for c, table in zip(coefficients, tables, strict=True)
    )


def _parts(
    cells: Sequence[np.ndarray],
    units: np.ndarray,
    share: np.ndarray,
    coefficients: Sequence[float],
) -> _Parts:
    count = len(units)
    once = count / (count - 1)
    prompts = once * float((share**2 * (units - units @ share) ** 2).sum())
    seeds = noise = terms = 0.0
    for c, cell in zip(coefficients, cells, strict=True):
        checkpoints, mean = len(cell), cell @ share
        part = c**2 * float(mean.var(ddof=1)) / checkpoints
        residual = cell - cell.mean(0) - mean[:, None] + mean.mean()
        item = once * float((share**2 * residual**2).sum()) / (checkpoints - 1)
        seeds, noise = seeds + part, noise + item * c**2 / checkpoints
        terms += part**2 / (checkpoints - 1)
    fewest = min(len(cell) for cell in cells)
    return _Parts(prompts, seeds, noise, prompts**2 / (count - 1), terms, fewest)
