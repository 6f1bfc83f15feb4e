"""Size of a study: what more prompts, or more repeats of each, would show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist

import numpy as np

from wishbone.core.evaluate.result_parts import Size
from wishbone.core.evaluate.statistics.paired import POWER, student

FEWEST = 12
"""Prompts from which a size is advised; the scatter of fewer is not known well enough."""
REPEATS = (1, 3, 5)
SCATTER_WITHIN = 0.98
"""Share of the variance of word errors' differences that lies between repeats of one sentence: 11.8
points, against 1.8 between sentences (24 sentences, four repeats of two bundled systems). Used
where a run repeats nothing."""


@dataclass(frozen=True)
class Scatter:
    """Variances of a contrast."""

    between: float
    """Of prompts' true values."""
    within: float
    """Of one repeat around its prompt's."""
    trainings: float
    """Of the estimate, from training seeds: no prompt lessens it."""
    assumed: bool
    """True where repeats were not tried."""


def scatter(
    tables: Sequence[np.ndarray],
    coefficients: Sequence[float],
    weights: np.ndarray,
    trainings: float,
) -> Scatter:
    """Part the variance of the prompts' contrasts; tables are [K, U, R] as in ``contrast``."""
    units = sum(c * t.mean((0, 2)) for c, t in zip(coefficients, tables, strict=True))  # [U]
    share = np.asarray(weights, float) / np.sum(weights)
    count = len(share)
    # of the estimate, times the prompts: the variance that a prompt of average weight counts for
    total = count**2 / (count - 1) * float((share**2 * (units - units @ share) ** 2).sum())
    repeats = tables[0].shape[2]
    if repeats < 2:
        return Scatter(
            total * (1 - SCATTER_WITHIN), total * SCATTER_WITHIN, trainings, assumed=True
        )
    within = sum(
        c**2 * float((t.var(2, ddof=1).mean(0) * share**2).sum()) * count / len(t)
        for c, t in zip(coefficients, tables, strict=True)
    )
    within = min(within, total * repeats)
    return Scatter(max(0.0, total - within / repeats), within, trainings, assumed=False)


def detectable(
    spread: Scatter, prompts: int, repeats: int, confidence: float, freedom: float | None = None
) -> float:
    """Smallest true difference that a study of this size shows in four cases of five.

    ``freedom`` is that of the verdict's t where trainings are few.
    """
    variance = spread.between / prompts + spread.within / (prompts * repeats) + spread.trainings
    quantile = student((1 + confidence) / 2, min(prompts - 1, freedom or inf))
    return (quantile + NormalDist().inv_cdf(POWER)) * sqrt(variance)


def curve(
    spread: Scatter,
    now: tuple[int, int],
    available: int,
    confidence: float,
    freedom: float | None = None,
) -> list[Size]:
    """Sizes from the present one up, and what each would show; no prompts but those that exist.

    ``now`` are prompts and repeats of the run. Empty with fewer than ``FEWEST`` prompts.
    """
    prompts, repeats = now
    if prompts < FEWEST:
        return []
    most = max(available, prompts)
    counts = sorted({min(most, prompts * factor) for factor in (1, 2, 4)} | {most})
    return [
        Size(
            prompts=count,
            seeds=times,
            detectable=detectable(spread, count, times, confidence, freedom),
            assumed=True if spread.assumed and times > 1 else None,
        )
        for times in sorted({*REPEATS, repeats})
        if times >= repeats
        for count in counts
    ]
