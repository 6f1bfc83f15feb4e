"""Listeners and sentences that a test needs, by a formula, and simulated listeners to check it.

An answer varies with its listener, with its sentence and by chance. More answers of one listener
reduce the last part only, more listeners not the second: with few sentences, no number of listeners
settles a small difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist

import numpy as np
import scipy

from wishbone.core.evaluate.listening.answers import Answer, Answers
from wishbone.core.evaluate.listening.design import DESIGNS, MOST_TRIALS
from wishbone.core.evaluate.listening.estimates import estimate
from wishbone.core.evaluate.statistics.paired import POWER, student

MOST = 2000
"""Listeners beyond which none are looked for."""
DEVIATION = {"ab": 0.5, "cmos": 1.3, "abx": 0.5, "mos": 1.0, "mushra": 20.0}
"""Standard deviation of an answer; of ab and abx, at most this much for any share."""
ANSWERS = {"ab": 1, "cmos": 1, "abx": 1, "mos": 4, "mushra": 2}
"""Variances of single answers in a difference of two systems: a trial of ``mos`` rates one of them,
so that half of the answers speak of each."""
EQUAL = {"ab": 0.5, "abx": 0.5}
"""The value that means no difference, where it is not 0."""
SOME_DRAWS = 200
"""Resamples of the analysis of one simulated test."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Assumed:
    """A test and the listeners it will meet, as far as they are assumed."""

    design: str
    effect: float
    """True value: share that prefers the better system or that is recognised, or a difference."""
    items: int
    trials: int
    """Trials of each listener."""
    rater: float = 0.05
    """Share of an answer's variance that is the listener's."""
    item: float = 0.05
    """Share of it that is the sentence's."""

    def __post_init__(self) -> None:
        if self.design in EQUAL and not 0 < self.effect < 1:
            raise ValueError(f"A share lies between 0 and 1, and {self.effect:g} does not.")
        if not (self.rater >= 0 <= self.item and self.rater + self.item < 1):
            raise ValueError("Shares of the variance are 0 or more, and below 1 together.")
        if self.items < 2 or self.trials < 1:
            raise ValueError("A test needs two sentences and a trial.")

    @property
    def distance(self) -> float:
        """Distance of the effect from no difference."""
        return abs(self.effect - EQUAL.get(self.design, 0.0))

    @property
    def variance(self) -> float:
        """Variance of one answer, or of one paired difference."""
        if self.design in EQUAL:
            return self.effect * (1 - self.effect)
        return DEVIATION[self.design] ** 2


def default_trials(design: str, items: int) -> int:
    """Trials of one listener for two systems, as ``make`` gives them."""
    per_item = 2 if DESIGNS[design].systems == 1 else 1
    return min(MOST_TRIALS, per_item * items)


def power(assumed: Assumed, listeners: int) -> float:
    """Chance that a test with so many listeners finds the effect, at 5 % and two-sided."""
    chance = 1 - assumed.rater - assumed.item
    single = ANSWERS[assumed.design] * chance / (listeners * assumed.trials)
    by_rater = assumed.variance * (assumed.rater / listeners + single)
    by_item = assumed.variance * (assumed.item / assumed.items + single)
    variance = by_rater + by_item - assumed.variance * single
    below = by_rater**2 / (listeners - 1) + by_item**2 / max(1, assumed.items - 1)
    freedom = max(variance**2 / below, min(listeners, assumed.items) - 1)
    limit = student(0.975, freedom)
    return float(scipy.stats.nct.sf(limit, freedom, assumed.distance / sqrt(variance)))


def listeners_needed(assumed: Assumed, wanted_power: float = POWER) -> int | None:
    """Return the fewest listeners with that power; None where sentences are what is missing."""
    low, high = 2, MOST
    if power(assumed, high) < wanted_power:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(assumed, middle) >= wanted_power else (middle + 1, high)
    return low


@dataclass(frozen=True)
class Checked:
    """Simulated tests, each analysed as a real one."""

    runs: int
    power: float
    """Share of them that gave a verdict for the better system."""
    coverage: float
    """Share whose 95 % interval has the true value in it."""
    wrong: float
    """Share that gave a verdict for the worse system."""


def check(assumed: Assumed, listeners: int, runs: int, seed: int = 0) -> Checked:
    """Simulate ``runs`` tests of two systems and analyse each."""
    better = covered = worse = 0
    for run in range(runs):
        answers = simulate(assumed, listeners, np.random.default_rng([seed, run]))
        result = estimate(answers, answers.answers, None, SOME_DRAWS, seed, False)
        comparison = result.comparisons[0]
        better += comparison.verdict in ("better", "told apart")
        worse += comparison.verdict == "worse"
        covered += comparison.low <= assumed.effect <= comparison.high
    return Checked(runs, better / runs, covered / runs, worse / runs)


def without_difference(assumed: Assumed) -> Assumed:
    """Return the same test of two systems that are alike."""
    return replace(assumed, effect=EQUAL.get(assumed.design, 0.0))


def simulate(
    assumed: Assumed, listeners: int, random: np.random.Generator, ties: float = 0.0
) -> Answers:
    """Answers of simulated listeners to systems "one" and "two", the second better by the effect.

    Of ab and abx each answer is a threshold on a normal variable with parts of the listener, the
    sentence and chance; within ``ties`` of zero there is no preference. Of the others it is a
    number, not rounded and not cut at the ends of the scale; listeners rate high or low by habit.
    """
    taste = random.normal(0, sqrt(assumed.rater), listeners)  # [R]
    lean = random.normal(0, sqrt(assumed.item), assumed.items)  # [I]
    habit = random.normal(0, 0.5, listeners)  # [R]
    answers = []
    for rater in range(listeners):
        for trial in range(assumed.trials):
            item = (rater * assumed.trials + trial) % assumed.items
            # a sentence's second turn with the same listener is the other system's, in design mos
            turn = (trial // assumed.items + rater) % 2
            shared = taste[rater] + lean[item]
            systems, scores = _answer(assumed, shared, habit[rater], turn, ties, random)
            answers.append(Answer(f"r{rater}", f"t{item}", f"i{item}", systems, scores))
    return Answers(assumed.design, ["one", "two"], answers)


def _answer(
    assumed: Assumed,
    shared: float,
    habit: float,
    turn: int,
    ties: float,
    random: np.random.Generator,
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Make one answer of a listener whose leaning, with the sentence's, is ``shared``."""
    pair = ("one", "two")
    chance = sqrt(1 - assumed.rater - assumed.item) * random.normal(size=2)  # [2]
    if assumed.design in EQUAL:
        z = NORMAL.inv_cdf(assumed.effect) + shared + chance[0]
        if assumed.design == "abx":
            return pair, (float(z > 0),)
        share = 0.5 if abs(z) < ties else float(z > 0)
        return pair, (1 - share, share)
    deviation = sqrt(assumed.variance)
    gap = assumed.effect + deviation * shared
    if assumed.design == "cmos":
        return pair, (0.0, gap + deviation * chance[0])
    scores = (deviation * (habit + chance) + (-gap / 2, gap / 2)).tolist()
    if assumed.design == "mos":
        return (pair[turn],), (scores[turn],)
    return pair, tuple(scores)


def share_with_ties(effect: float, ties: float) -> float:
    """Return the share of two, ties split, that ``simulate`` aims at for a given effect."""
    shift = NORMAL.inv_cdf(effect)
    return (NORMAL.cdf(shift - ties) + NORMAL.cdf(shift + ties)) / 2


def with_ties(assumed: Assumed, share: float) -> Assumed:
    """Return the test in which ``share`` of the answers have no preference and are split.

    Its effect is what is left of the assumed one, the share of listeners who prefer the better
    system when they must choose. Raises ``ValueError`` for other designs than ab.
    """
    if assumed.design != "ab" or not 0 <= share < 1:
        raise ValueError("Ties are a share of the answers, below 1, of the design ab alone.")
    shift = NORMAL.inv_cdf(assumed.effect)

    def tied(width: float) -> float:
        return NORMAL.cdf(width - shift) - NORMAL.cdf(-width - shift)

    # ten standard deviations hold every share that a float can tell from 1
    width = scipy.optimize.brentq(lambda z: tied(z) - share, 0.0, 10.0 + abs(shift))
    return replace(assumed, effect=share_with_ties(assumed.effect, width))


def plan_rows(
    assumed: Assumed, sentences: Sequence[int], trials: int = 0
) -> list[tuple[int, int, int | None, float]]:
    """Return sentences, trials, listeners needed and the power of 20 listeners, a row for each.

    ``trials`` of one listener; 0 for those that ``make`` gives so many sentences.
    """
    rows = []
    for items in sentences:
        row = replace(assumed, items=items, trials=trials or default_trials(assumed.design, items))
        rows.append((items, row.trials, listeners_needed(row), power(row, 20)))
    return rows
