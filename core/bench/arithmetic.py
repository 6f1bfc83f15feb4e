"""From times to a verdict: medians, ratios round by round, and how sure they are.

Contenders take turns, so a slow moment of the machine falls on all of them: the ratio is formed
within each round, and its median over the rounds is reported. The interval is that of the median
by order statistics: it assumes nothing about how the times are distributed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from statistics import median

import numpy as np

from wishbone.core.bench.records import RatioResult, Spread, SuiteResult
from wishbone.core.bench.suite import RatioConfig

SURE = 0.95
"""Wanted coverage of an interval; six rounds are the fewest that reach it."""
FEWEST = 3
"""Rounds without which no ratio is formed."""


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
    """Summarize at least one number; quartiles by linear interpolation."""
    least, low, middle, high, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return Spread(median=middle, low=low, high=high, least=least, most=most)


def paired_ratio(above: Sequence[float | None], below: Sequence[float | None]) -> Ratio | None:
    """Divide above[i] / below[i] in the rounds that have both; None for fewer than ``FEWEST``."""
    pairs = zip(above, below, strict=False)
    ratios = sorted(a / b for a, b in pairs if a is not None and b)
    if len(ratios) < FEWEST:
        return None
    cut = 0
    while 2 * (cut + 1) < len(ratios) and _coverage(len(ratios), cut + 1) >= SURE:
        cut += 1
    coverage = _coverage(len(ratios), cut)
    return Ratio(median(ratios), ratios[cut], ratios[-1 - cut], coverage, len(ratios))


def _coverage(count: int, cut: int) -> float:
    """Probability that the median lies within ``count`` numbers less ``cut`` at each end."""
    outside = sum(comb(count, k) for k in range(cut + 1))
    return 1 - 2 * outside / 2**count


def judge(ratio: Ratio | None, claim: RatioConfig, why: str = "") -> RatioResult:
    """Hold a ratio against its claim; ``why`` says why there is none."""
    fields = asdict(claim)
    if ratio is None:
        return RatioResult(**fields, status="not measured", why=why)
    fields |= asdict(ratio)
    if claim.at_least is None and claim.at_most is None:
        return RatioResult(**fields, status="reported")

    def reaches(value: float, bound: float) -> bool:
        return value >= bound if claim.at_least is not None else value <= bound

    bound = claim.at_least if claim.at_least is not None else claim.at_most
    met = reaches(ratio.value, bound)
    return RatioResult(
        **fields,
        status="met" if met else "missed",
        sure=reaches(ratio.low, bound) == reaches(ratio.high, bound) == met,
        reached=claim.stretch is not None and reaches(ratio.value, claim.stretch),
    )


def overall(suites: Sequence[SuiteResult], quick: bool) -> str:
    """Reduce the whole run to a word: met, missed, incomplete or none."""
    if quick:
        return "none"
    statuses = {ratio.status for suite in suites for ratio in suite.ratios} - {"reported"}
    if any(suite.stopped for suite in suites) or "missed" in statuses:
        return "missed"
    if "not measured" in statuses:
        return "incomplete"
    return "met" if statuses else "none"


def verdict(suites: Sequence[SuiteResult], quick: bool) -> str:
    """Write one line: the word, then every claim with its ratio, interval and requirement."""
    if quick:
        return (
            "verdict: none. This was a sanity run (--quick) with tiny sizes;"
            " its times say nothing. Run it again without --quick."
        )
    parts = []
    for suite in suites:
        if suite.stopped:
            parts.append(f"{suite.name}: stopped, {suite.stopped}")
        parts += [f"{suite.name}: {_claim(ratio)}" for ratio in suite.ratios]
    claims = "; ".join(parts) if parts else "No ratio was asked for."
    return f"verdict: {overall(suites, quick)}. {claims}"


def _claim(ratio: RatioResult) -> str:
    if ratio.status == "not measured":
        return f"{ratio.title} not measured"
    text = f"{ratio.title} {ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
    return text + (f" ({ratio.requirement}) {ratio.status}" if ratio.requirement else "")
