"""The outcome of a contrast of arms: its size, its interval and a verdict."""

from __future__ import annotations

from math import exp

import numpy as np

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.result import Outcome
from wishbone.core.evaluate.statistics import paired
from wishbone.core.evaluate.statistics.contrast import Contrast


def outcome(
    contrast: Contrast, metric: MetricInfo, quick: bool, interaction: bool = False
) -> Outcome:
    """Describe a contrast of arms: its size, its interval and the verdict.

    Of an interaction neither side is the better one: its verdict is "present", "none beyond
    margin" or "inconclusive".
    """
    interval, units = contrast.interval, len(contrast.units)
    # without a margin nothing lies inside it
    margin = metric.margin or 0.0
    margin = float(np.log1p(margin)) if metric.ratio else margin
    verdict, more = _decide(interval, margin, metric, contrast.p, units)
    if interaction:
        names = {"better": "present", "worse": "present", "equivalent": "none beyond margin"}
        verdict = names.get(verdict, verdict)
    elif metric.better == "neither":
        verdict = {"better": "different", "worse": "different"}.get(verdict, verdict)
    if contrast.freedom is not None and more:
        # prompts alone settle it only where seeds are not what makes the interval wide
        more = more if (contrast.seed_share or 0) < 0.5 else None
    read = exp if metric.ratio else float
    return Outcome(
        difference=read(interval.estimate),
        low=read(interval.low) if np.isfinite(interval.low) else None,
        high=read(interval.high) if np.isfinite(interval.high) else None,
        ratio=metric.ratio,
        margin=metric.margin,
        p=contrast.p,
        p_checkpoints=contrast.p_checkpoints,
        freedom=contrast.freedom,
        seed_share=contrast.seed_share,
        verdict="none" if quick else verdict,
        more_prompts=None if quick else more,
        detectable=_finite(paired.detectable(interval)),
        units=units,
        in_margins=_in_margins(interval, margin, metric),
    )


def _decide(
    interval: paired.Interval, margin: float, metric: MetricInfo, p: float, units: int
) -> tuple[str, int | None]:
    """The verdict, and about how many more prompts would settle it.

    The interval decides; a difference must also pass the sign-flip test, whose p cannot fall
    below 0.05 with fewer than ``FEWEST`` prompts, and with so few nothing is called equivalent.
    """
    verdict = paired.verdict(interval, margin, metric.better)
    more = paired.more_needed(interval, margin, units)
    few = units < paired.FEWEST
    if few or (verdict in ("better", "worse") and p > 0.05):
        verdict = "inconclusive"
        more = None if more is None else max(more, paired.FEWEST - units, 1)
    return verdict, more


def _in_margins(
    interval: paired.Interval, margin: float, metric: MetricInfo
) -> tuple[float | None, float | None, float | None]:
    """Estimate and ends in units of the margin, positive where the arm is better; for plots."""
    if not margin:
        return None, None, None
    sign = 1 if metric.better == "higher" else -1
    low, high = sorted(sign * end / margin for end in (interval.low, interval.high))
    return sign * interval.estimate / margin, _finite(low), _finite(high)


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
