"""Looking more than once: how much of the chance of a false alarm each look may use.

Who speaks more sentences until there is a verdict finds one by chance more often than 5 times in
100. With looks that are planned, each may use a part and all together use no more than what one
look would: the parts grow as in O'Brien and Fleming's design (Lan and DeMets 1983, "Discrete
sequential boundaries for clinical trials"), so that early looks cost the last one little. The parts
are added up as if looks were not alike, which is a little stricter than necessary and holds
whatever the data are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

_NORMAL = NormalDist()


def parts(looks: Sequence[int], alpha: float) -> list[float]:
    """Part of ``alpha`` for each look, given the prompts at each; they add up to ``alpha``."""
    quantile = _NORMAL.inv_cdf(1 - alpha / 2)
    spent = [2 * (1 - _NORMAL.cdf(quantile / sqrt(look / looks[-1]))) for look in looks[:-1]]
    spent.append(alpha)
    return [now - before for before, now in zip([0.0, *spent], spent, strict=False)]


def too_early(looks: Sequence[int], alpha: float, claims: int, draws: int) -> list[int]:
    """Return the looks whose part, shared by ``claims``, no p of ``draws`` signs can fall below.

    The least p of a sampled test is 1 / (draws + 1); ten times that leaves it room to be seen.
    """
    if not looks:
        return []
    least = 10 * max(1, claims) / draws
    return [look for look, part in zip(looks, parts(looks, alpha), strict=True) if part < least]


def part_of(looks: Sequence[int], prompts: int, alpha: float) -> tuple[int, float]:
    """Number of the look at ``prompts``, from 1, and its part; 0 and 0.0 where none is planned."""
    if prompts not in looks:
        return 0, 0.0
    place = list(looks).index(prompts)
    return place + 1, parts(looks, alpha)[place]
