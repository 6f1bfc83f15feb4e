"""From times to a verdict: medians, ratios round by round, and how sure they are.

Contenders take turns, so a slow moment of the machine falls on all of them: the ratio is formed
within each round, and its median over the rounds is reported. The interval is that of the median
by order statistics: it assumes nothing about how the times are distributed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from statistics import median
from typing import Any

import numpy as np

SURE = 0.95
"""Wanted coverage of an interval; six rounds are the fewest that reach it."""
FEWEST = 3
"""Rounds without which no ratio is formed."""


@dataclass(frozen=True)
class Spread:
    """Some numbers in five."""

    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""
    least: float
    most: float


@dataclass(frozen=True)
class Ratio:
    """A median and its interval."""

    value: float
    low: float
    high: float
    coverage: float
    """Probability with which such an interval holds the true median."""
    rounds: int


def spread(values: Sequence[float]) -> Spread:
    """Of at least one number; quartiles by linear interpolation."""
    least, low, middle, high, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return Spread(middle, low, high, least, most)


def paired_ratio(above: Sequence[float | None], below: Sequence[float | None]) -> Ratio | None:
    """above[i] / below[i] over the rounds that have both; None where fewer than ``FEWEST`` do."""
    pairs = zip(above, below, strict=False)
    ratios = sorted(a / b for a, b in pairs if a is not None and b)
    if len(ratios) < FEWEST:
        return None
    cut = 0
    while 2 * (cut + 1) < len(ratios) and _coverage(len(ratios), cut + 1) >= SURE:
        cut += 1
    return Ratio(
        median(ratios),
        ratios[cut],
        ratios[-1 - cut],
        _coverage(len(ratios), cut),
        len(ratios),
    )


def _coverage(count: int, cut: int) -> float:
    """Probability that the median lies within what is left of ``count`` after ``cut`` each end."""
    outside = sum(comb(count, k) for k in range(cut + 1))
    return 1 - 2 * outside / 2**count


def judge(ratio: Ratio | None, claim: Mapping[str, Any]) -> dict[str, Any]:
    """``status`` of a claim (fields of ``RatioConfig``), and the numbers it rests on.

    met, missed, reported (nothing was asked) or not measured; ``sure`` says whether the whole
    interval is on the same side as the median, ``stretch`` whether that mark was reached too.
    """
    found: dict[str, Any] = {**claim, "status": "not measured", "sure": False, "reached": False}
    if ratio is None:
        return found
    found |= asdict(ratio)
    least, most = claim.get("at_least"), claim.get("at_most")
    if least is None and most is None:
        return found | {"status": "reported"}
    if least is not None:
        met, ends = ratio.value >= least, (ratio.low >= least, ratio.high >= least)
    else:
        met, ends = ratio.value <= most, (ratio.low <= most, ratio.high <= most)
    found |= {"status": "met" if met else "missed", "sure": ends[0] == ends[1] == met}
    stretch = claim.get("stretch")
    if stretch is not None:
        found["reached"] = ratio.value >= stretch if least is not None else ratio.value <= stretch
    return found


def overall(suites: Sequence[Mapping[str, Any]], quick: bool) -> str:
    """met, missed, incomplete or none: the word that the whole run comes to."""
    if quick:
        return "none"
    claims = [c for suite in suites for c in suite["ratios"] if c["status"] != "reported"]
    if any(suite.get("stopped") for suite in suites) or any(
        claim["status"] == "missed" for claim in claims
    ):
        return "missed"
    if any(claim["status"] == "not measured" for claim in claims):
        return "incomplete"
    return "met" if claims else "none"


def verdict(suites: Sequence[Mapping[str, Any]], quick: bool) -> str:
    """One line: the word, then every claim with its ratio, its interval and what it had to be."""
    word = overall(suites, quick)
    if quick:
        return (
            "verdict: none. This was a sanity run (--quick) with tiny sizes;"
            " its times say nothing. Run it again without --quick."
        )
    parts = []
    for suite in suites:
        if suite.get("stopped"):
            parts.append(f"{suite['name']}: stopped, {suite['stopped']}")
        parts += [f"{suite['name']}: {_claim(claim)}" for claim in suite["ratios"]]
    return f"verdict: {word}. " + ("; ".join(parts) if parts else "No ratio was asked for.")


def _claim(claim: Mapping[str, Any]) -> str:
    if claim["status"] == "not measured":
        return f"{claim['title']} not measured"
    text = f"{claim['title']} {claim['value']:.2f}x [{claim['low']:.2f}, {claim['high']:.2f}]"
    return text + (f" ({asked(claim)}) {claim['status']}" if asked(claim) else "")


def asked(claim: Mapping[str, Any]) -> str:
    """What a claim had to be, in words; empty where nothing was asked."""
    if claim.get("at_least") is not None:
        return f"must be at least {claim['at_least']:g}x"
    if claim.get("at_most") is not None:
        return f"must be at most {claim['at_most']:g}x"
    return ""
