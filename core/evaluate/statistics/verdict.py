"""The outcome of a contrast of arms: its size, its interval and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt

import numpy as np

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.result import Outcome
from wishbone.core.evaluate.statistics import paired
from wishbone.core.evaluate.statistics.contrast import (
    Contrast,
    Tables,
    contrast,
    lost_sentence,
)
from wishbone.core.evaluate.statistics.paired import Interval

ALPHA = 0.05
"""Chance of any false "better" or "worse" among the primary claims of a look, where one is all."""
EXPLORATORY = "exploratory"
"""Stands in place of a verdict where none was planned."""
WITHHELD = "none"
LOST = 150
"""Items in which one may be lost without showing: a difference must outlast so many more lost ones
in either arm, and one at least. Of 100 items in which nothing is lost, one in 97 may be; of 300,
three, whose absence is as misleading. Chosen by simulation (``wishbone evaluate calibration``)."""


@dataclass(frozen=True)
class Asked:
    """A contrast and all that its verdict depends on."""

    contrast: Contrast
    metric: MetricInfo
    moves: tuple[float, ...] = ()
    """Moves of the estimate by one more lost sentence, one of each arm."""
    interaction: bool = False
    withheld: str = ""
    """Why no verdict is given, or ""."""
    lost: float = 1.0
    """So many lost sentences of an arm a difference must outlast."""


@dataclass(frozen=True)
class Level:
    """How strict verdicts are."""

    alpha: float = ALPHA
    """Chance of any false alarm in the family of claims."""
    claims: int = 1
    """Claims in it."""

    @property
    def confidence(self) -> float:
        """Of each interval, so that all of them together hold at ``1 - alpha`` (Bonferroni)."""
        return 1 - self.alpha / max(1, self.claims)


def ask(
    tables: Tables,
    coefficients: Sequence[float],
    metric: MetricInfo,
    withheld: str = "",
    interaction: bool = False,
    draws: int = paired.DRAWS,
) -> Asked:
    """Contrast the arms of some tables, with what one more lost sentence in any would change."""
    moves: tuple[float, ...] = ()
    if metric.worst is not None and not metric.ratio:
        moves = lost_sentence(tables.arms, coefficients, tables.weights, metric.worst)
    result = contrast(tables.arms, coefficients, tables.weights, voices=tables.voices, draws=draws)
    lost = max(1.0, min(arm.size for arm in tables.arms) / LOST)
    return Asked(result, metric, moves, interaction, withheld, lost)


def judge(family: Sequence[Asked], alpha: float, quick: bool) -> list[tuple[Outcome, float | None]]:
    """The outcome of every contrast, and its corrected p where it is a claim.

    The primary ones are corrected together: p by Holm's method, intervals by Bonferroni's. An
    ``alpha`` of 0 belongs to a look that was not planned, whose verdicts are withheld.
    """
    claims = {n: asked.contrast.p for n, asked in enumerate(family) if asked.metric.primary}
    level, p_holm = Level(alpha or ALPHA, len(claims)), paired.holm(claims)
    return [
        (outcome(asked, level, p_holm.get(n), quick), p_holm.get(n))
        for n, asked in enumerate(family)
    ]


def outcome(asked: Asked, level: Level, p_holm: float | None, quick: bool) -> Outcome:
    """Describe a contrast of arms: its size, its intervals and the verdict.

    ``p_holm`` is its p, corrected with the other claims of its family; None outside of any. Of an
    interaction neither side is the better one: its verdict is "present", "none beyond margin" or
    "inconclusive".
    """
    contrast, metric = asked.contrast, asked.metric
    # without a margin nothing lies inside it
    margin = metric.margin or 0.0
    margin = float(np.log1p(margin)) if metric.ratio else margin
    interval, together = contrast.interval, contrast.at(level.confidence)
    guarded = surviving(together, asked.moves, len(contrast.units), level.confidence)
    verdict = _decide(asked, together, guarded, margin, p_holm, level)
    if asked.interaction:
        names = {"better": "present", "worse": "present", "equivalent": "none beyond margin"}
        verdict = names.get(verdict, verdict)
    elif metric.better == "neither":
        verdict = {"better": "different", "worse": "different"}.get(verdict, verdict)
    read = exp if metric.ratio else float
    corrected = metric.primary and not quick
    return Outcome(
        difference=read(interval.estimate),
        low=_end(interval.low, read),
        high=_end(interval.high, read),
        low_together=_end(together.low, read) if corrected else None,
        high_together=_end(together.high, read) if corrected else None,
        confidence=level.confidence if corrected else None,
        low_guarded=_end(guarded.low, read) if corrected and asked.moves else None,
        high_guarded=_end(guarded.high, read) if corrected and asked.moves else None,
        ratio=metric.ratio,
        margin=metric.margin,
        p=contrast.p,
        p_checkpoints=contrast.p_checkpoints,
        freedom=contrast.freedom,
        seed_share=contrast.seed_share,
        verdict=WITHHELD if quick else verdict,
        withheld=asked.withheld or None,
        more_prompts=None,
        detectable=_finite(paired.detectable(together, level.confidence)),
        units=len(contrast.units),
        in_margins=_in_margins(together if corrected else interval, margin, metric),
    )


def surviving(
    interval: Interval, moves: tuple[float, ...], units: int, confidence: float
) -> Interval:
    """The interval, widened to hold what it would be with one more lost sentence in any one arm.

    The lost sentence moves the estimate, and adds its own scatter.
    """
    low, high = interval.low, interval.high
    if not np.isfinite(low) or units < 2:
        return interval
    quantile = paired.student((1 + confidence) / 2, units)
    for move in moves:
        middle = interval.estimate + move
        below, above = interval.estimate - interval.low, interval.high - interval.estimate
        low = min(low, middle - sqrt(below**2 + (quantile * move) ** 2))
        high = max(high, middle + sqrt(above**2 + (quantile * move) ** 2))
    return Interval(interval.estimate, low, high)


def _decide(
    asked: Asked,
    together: Interval,
    guarded: Interval,
    margin: float,
    p_holm: float | None,
    level: Level,
) -> str:
    """The verdict, from the corrected p and the interval that holds together with the others.

    A difference must stay on its side of zero with one more lost sentence in either arm, of many
    items with one in ``LOST``, and equivalence must hold with the scatter of one, too; nothing is
    equivalent that does not scatter at all, and nothing is settled by fewer than
    ``paired.FEWEST`` prompts.
    """
    if not asked.metric.primary:
        return EXPLORATORY
    if asked.withheld or p_holm is None:
        return WITHHELD
    if len(asked.contrast.units) < paired.FEWEST:
        return "inconclusive"
    verdict = paired.verdict(together, margin, asked.metric.better)
    if verdict == "equivalent":
        scatters = together.high > together.low
        inside = -margin <= guarded.low and guarded.high <= margin
        if scatters and inside:
            return verdict
        # there may still be a difference, however small
        verdict = paired.verdict(together, 0.0, asked.metric.better)
    if verdict == "inconclusive" or p_holm > level.alpha:
        return "inconclusive"
    shifts = (0.0, *(asked.lost * move for move in asked.moves))
    ends = [(together.low + shift, together.high + shift) for shift in shifts]
    same_side = all(low > 0 for low, _ in ends) or all(high < 0 for _, high in ends)
    return verdict if same_side else "inconclusive"


def _in_margins(
    interval: Interval, margin: float, metric: MetricInfo
) -> tuple[float | None, float | None, float | None]:
    """Estimate and ends in units of the margin, positive where the arm is better; for plots."""
    if not margin:
        return None, None, None
    sign = 1 if metric.better == "higher" else -1
    low, high = sorted(sign * end / margin for end in (interval.low, interval.high))
    return sign * interval.estimate / margin, _finite(low), _finite(high)


def _end(number: float, read: type[float]) -> float | None:
    return read(number) if np.isfinite(number) else None


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
