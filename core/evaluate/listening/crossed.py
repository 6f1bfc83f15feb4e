"""Uncertainty of answers that share listeners and items, and the agreement of listeners.

Two answers of one listener are alike, and so are two answers about one sentence. Intervals that
take answers for independent are too narrow; these are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wishbone.core.evaluate.statistics.paired import student, two_sided

DRAWS = 1000
"""Resamples of listeners, of items and of their meetings each."""
AT_ONCE = 100
"""Resamples that are computed together."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights of the answers [D, N] -> values [D, K], one row for each set of weights."""


@dataclass(frozen=True)
class Spread:
    """Estimates [K] and how far they would move with other listeners and other items."""

    value: np.ndarray
    error: np.ndarray
    """Standard errors; not a number where they cannot be known."""
    freedom: np.ndarray
    """Degrees of freedom of Student's t."""

    def interval(self, place: int) -> tuple[float, float]:
        """Return the 95 % interval of one estimate."""
        half = self.error[place] * student(0.975, self.freedom[place])
        return float(self.value[place] - half), float(self.value[place] + half)

    def p(self, place: int, null: float = 0.0) -> float:
        """Return the p value of one estimate against ``null``; it agrees with the interval."""
        error = self.error[place]
        if not error > 0:
            return 1.0 if np.isnan(error) or self.value[place] == null else 0.0
        return two_sided(abs(self.value[place] - null) / error, self.freedom[place])


def spread(
    statistic: Statistic,
    raters: Sequence[str],
    items: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> Spread:
    """Bootstrap a statistic of N answers over listeners and over items.

    Listeners, items, and meetings of a listener with an item are resampled apart, and the variances
    combined as listeners + items - meetings (Cameron, Gelbach and Miller 2011, "Robust Inference
    with Multiway Clustering", equation 2.12, each with n / (n - 1)). Resampling listeners and items
    at once counts the chance of single answers three times (Owen 2007, "The pigeonhole bootstrap"),
    so that its intervals are up to 1.7 times too wide. One listener alone: items only.
    """
    random = np.random.default_rng(seed)
    value = statistic(np.ones((1, len(raters))))[0]  # [K]
    rater, item = (np.unique(np.asarray(x), return_inverse=True)[1] for x in (raters, items))
    listeners, sentences = (int(codes.max(initial=-1)) + 1 for codes in (rater, item))
    meeting = np.unique(rater * sentences + item, return_inverse=True)[1]  # [N]
    by_rater, by_item, by_meeting = (
        _variance(statistic, codes, draws, random) for codes in (rater, item, meeting)
    )  # [K] each
    if listeners < 2 and sentences < 2:
        nothing = np.full_like(value, np.nan)  # [K]
        return Spread(value, nothing, np.ones_like(value))
    if listeners < 2 or sentences < 2:
        variance = by_item if listeners < 2 else by_rater  # [K]
        degrees = max(listeners, sentences) - 1
        return Spread(value, np.sqrt(variance), np.full_like(value, degrees))
    variance = np.maximum(by_rater + by_item - by_meeting, np.maximum(by_rater, by_item))  # [K]
    below = by_rater**2 / (listeners - 1) + by_item**2 / (sentences - 1)  # [K]
    # Satterthwaite's, and never below what the smaller of the two has alone
    satterthwaite = variance**2 / np.maximum(below, 1e-300)  # [K]
    freedom = np.maximum(satterthwaite, min(listeners, sentences) - 1)  # [K]
    return Spread(value, np.sqrt(variance), freedom)


def _variance(
    statistic: Statistic, codes: np.ndarray, draws: int, random: np.random.Generator
) -> np.ndarray:
    """Variance [K] of a statistic over resamples of the clusters that ``codes`` [N] number."""
    clusters = int(codes.max(initial=-1)) + 1
    rows = []
    for begin in range(0, draws, AT_ONCE):
        count = min(AT_ONCE, draws - begin)
        weights = random.multinomial(clusters, np.full(clusters, 1 / clusters), size=count)
        rows.append(statistic(weights[:, codes].astype(float)))
    values = np.concatenate(rows)  # [D, K]
    # a resample may hold no answer about a system at all
    return np.nanvar(values, axis=0, ddof=1) * clusters / max(1, clusters - 1)


def mean_of(values: np.ndarray, mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means [D] of the answers [N] in ``mask`` by weights [D, N]; NaN where none is."""
    inside = weights[:, mask]  # [D, M]
    total = inside.sum(1)  # [D]
    with np.errstate(invalid="ignore", divide="ignore"):
        return inside @ values[mask] / total


def agreement(units: Sequence[Sequence[float]], scale: str = "interval") -> float | None:
    """Krippendorff's alpha of answers by unit; None where no two listeners judged one unit.

    ``scale`` is "nominal" or "interval". 1 is perfect, 0 what chance gives, below 0 contradiction.
    """
    pairable = [np.asarray(unit, float) for unit in units if len(unit) > 1]
    if not pairable:
        return None
    everything = np.concatenate(pairable)  # [N]
    observed = sum(_disagreement(unit, scale) / (len(unit) - 1) for unit in pairable)
    expected = _disagreement(everything, scale) / (len(everything) - 1)
    return 1.0 - observed / expected if expected > 0 else None


def _disagreement(values: np.ndarray, scale: str) -> float:
    """Sum of squared distances over all ordered pairs of values [N]."""
    if scale == "nominal":
        counts = np.unique(values, return_counts=True)[1]  # [V]
        return float(len(values) ** 2 - (counts**2).sum())
    return float(2 * (len(values) * (values**2).sum() - values.sum() ** 2))
