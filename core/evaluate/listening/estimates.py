"""Answers to a verdict: each design's estimates with intervals over listeners and items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, log

import numpy as np
import scipy

from wishbone.core.evaluate.listening.answers import Answer, Answers
from wishbone.core.evaluate.listening.crossed import (
    DRAWS,
    Spread,
    Statistic,
    agreement,
    mean_of,
    spread,
)
from wishbone.core.evaluate.listening.preference import POINTS, counts, pairs_of, strengths
from wishbone.core.evaluate.listening.screening import Note, counted, screen, uncaught
from wishbone.core.evaluate.statistics.paired import holm, wilson

FEW = 20
"""Listeners below which a warning stands."""
LEVEL = 0.05
UNITS = {
    "ab": "preferred",
    "cmos": "scale of -3 to 3",
    "abx": "recognised",
    "mos": "rating, 1 to 5",
    "mushra": "rating, 0 to 100",
}


@dataclass(frozen=True)
class Comparison:
    """A system against another, ``base``."""

    base: str
    system: str
    value: float
    """Of the system over its base: share that prefers it, mean comparison, difference of ratings;
    of ABX the share of answers that are right."""
    low: float
    high: float
    p: float
    """Against no difference; it agrees with the interval."""
    p_holm: float
    """The same, corrected for the number of comparisons."""
    verdict: str
    answers: int
    wins: int
    ties: int
    losses: int
    second_p: float | None = None
    """Of another test: the binomial one of ABX, Wilcoxon's on listeners' means elsewhere."""


@dataclass(frozen=True)
class Standing:
    """A system by itself: its mean rating, or its strength on a scale like Elo's."""

    system: str
    value: float
    low: float
    high: float
    answers: int
    median: float | None = None
    quartiles: tuple[float, float] | None = None


@dataclass(frozen=True)
class Estimates:
    """All figures of a set of answers."""

    listeners: int
    items: int
    answers: int
    comparisons: list[Comparison] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    first: float | None = None
    """Share of decided pairs in which the clip on the left was preferred."""
    agreement: float | None = None
    """Krippendorff's alpha."""
    friedman: float | None = None
    """p that systems rated side by side are all alike, on listeners' means."""


@dataclass(frozen=True)
class Analysis:
    """The result of a listening test."""

    design: str
    unit: str
    systems: list[str]
    anchors: list[str]
    estimates: Estimates
    everybody: Estimates
    """The same without screening."""
    notes: list[Note]
    warnings: list[str]


def analyze(
    answers: Answers, margin: float | None = None, draws: int = DRAWS, seed: int = 0
) -> Analysis:
    """Analyse a test. ``margin``: the difference within which two systems count as equal."""
    notes = screen(answers)
    good = estimate(answers, counted(answers, notes), margin, draws, seed)
    everybody = estimate(answers, uncaught(answers.answers), margin, draws, seed)
    warnings = list(answers.warnings)
    excluded = len({note.rater for note in notes if note.excluded})
    if excluded:
        warnings.append(
            f"{excluded} of {everybody.listeners} listeners are left out; see the screening log."
        )
    if 0 < good.listeners < FEW:
        warnings.append(
            f"{good.listeners} listeners are few: {FEW} or more are usual, and the intervals lean"
            " on Student's t."
        )
    if good.listeners == 1:
        warnings.append("One listener: the intervals speak of other sentences, not other people.")
    return Analysis(
        answers.design,
        UNITS[answers.design],
        answers.systems,
        answers.anchors,
        good,
        everybody,
        notes,
        warnings,
    )


def estimate(
    test: Answers,
    answers: Sequence[Answer],
    margin: float | None,
    draws: int,
    seed: int,
    wilcoxon: bool = True,
) -> Estimates:
    """Compute all figures of ``answers``; Wilcoxon's test takes most of the time."""
    listeners = len({answer.rater for answer in answers})
    items = len({answer.item for answer in answers})
    if not answers:
        return Estimates(listeners, items, 0)
    run = _Run(test, answers, margin, draws, seed, wilcoxon)
    if test.design in ("mos", "mushra"):
        comparisons, standings = run.ratings()
    else:
        comparisons, standings = run.pairs(), []
        if test.design == "ab" and len(test.systems) > 2:
            standings = run.bradley_terry()
    return Estimates(
        listeners, items, len(answers), comparisons, standings,
        first=run.first_side(), agreement=run.agreement(), friedman=run.friedman(),
    )  # fmt: skip


@dataclass
class _Run:
    """One set of answers under computation."""

    test: Answers
    answers: Sequence[Answer]
    margin: float | None
    draws: int
    seed: int
    wilcoxon: bool

    def pairs(self) -> list[Comparison]:
        """Compare every pair of systems that was set side by side: ab, cmos, abx."""
        rows: defaultdict[tuple[str, str], list[tuple[Answer, float]]] = defaultdict(list)
        for answer in self.answers:
            pair, value = self._oriented(answer)
            rows[pair].append((answer, value))
        result = []
        for pair in pairs_of(self.test.systems):
            if rows[pair]:
                result.append(self._pair(pair, rows[pair]))
        if self.test.design == "abx":
            return [replace(c, verdict=_told_apart(c)) for c in result]
        return _with_holm(result, self._equal(), self.margin)

    def _oriented(self, answer: Answer) -> tuple[tuple[str, str], float]:
        """Return an answer's systems in the test's order, and its value for the second of them."""
        order = self.test.systems.index
        base, system = sorted(answer.systems, key=order)
        if self.test.design == "abx":
            return (base, system), answer.scores[0]
        scores = dict(zip(answer.systems, answer.scores, strict=True))
        value = scores[system] - scores[base]
        return (base, system), (value + 1) / 2 if self.test.design == "ab" else value

    def _equal(self) -> float:
        """The value that means no difference."""
        return 0.5 if self.test.design in ("ab", "abx") else 0.0

    def _pair(self, pair: tuple[str, str], rows: Sequence[tuple[Answer, float]]) -> Comparison:
        values = np.array([value for _, value in rows])  # [N]
        every = np.ones(len(rows), bool)
        result = self._spread(lambda weights: mean_of(values, every, weights)[:, None], rows)
        equal = self._equal()
        listeners = len({answer.rater for answer, _ in rows})
        if self.test.design in ("ab", "abx"):
            low, high, p = share_interval(result, listeners)
        else:
            (low, high), p = result.interval(0), result.p(0)
        wins, losses = int((values > equal).sum()), int((values < equal).sum())
        if self.test.design == "abx":
            second = float(scipy.stats.binomtest(wins, len(values), 0.5, "greater").pvalue)
        else:
            second = self._wilcoxon(_by_rater([a.rater for a, _ in rows], values - equal))
        return Comparison(
            *pair, float(result.value[0]), low, high, p, p, "", len(values), wins,
            len(values) - wins - losses, losses, second,
        )  # fmt: skip

    def _wilcoxon(self, values: np.ndarray) -> float | None:
        """Wilcoxon's signed-rank test of listeners' means [R] against 0, zeros by Pratt's way."""
        if not self.wilcoxon or len(values) < 6 or not values.any():
            return None
        return float(scipy.stats.wilcoxon(values, zero_method="pratt").pvalue)

    def _spread(self, statistic: Statistic, rows: Sequence[tuple[Answer, float]]) -> Spread:
        raters = [answer.rater for answer, _ in rows]
        items = [answer.item for answer, _ in rows]
        return spread(statistic, raters, items, self.draws, self.seed)

    def bradley_terry(self) -> list[Standing]:
        """Rank three or more systems by all their pairs at once."""
        systems, pairs = self.test.systems, pairs_of(self.test.systems)
        rows = [(answer, *self._oriented(answer)) for answer in self.answers]
        outcome = {0.0: 0, 1.0: 1, 0.5: 2}
        outcomes = np.array([3 * pairs.index(pair) + outcome[value] for _, pair, value in rows])

        def points(weights: np.ndarray) -> np.ndarray:
            theta, _ = strengths(counts(outcomes, len(pairs), weights), len(systems))
            return theta * POINTS

        result = self._spread(points, [(answer, value) for answer, _, value in rows])
        met = [sum(name in answer.systems for answer in self.answers) for name in systems]
        return sorted(
            (
                Standing(name, float(result.value[place]), *result.interval(place), met[place])
                for place, name in enumerate(systems)
            ),
            key=lambda standing: -standing.value,
        )

    def ratings(self) -> tuple[list[Comparison], list[Standing]]:
        """Mean ratings of the systems, and their differences: mos, mushra."""
        rows = [
            (answer, system, score)
            for answer in self.answers
            for system, score in zip(answer.systems, answer.scores, strict=True)
        ]
        values = np.array([score for _, _, score in rows])  # [N]
        names = np.array([system for _, system, _ in rows])  # [N]
        systems = [system for system in self.test.systems if (names == system).any()]
        masks = [names == system for system in systems]
        pairs = pairs_of([system for system in systems if system not in self.test.anchors])

        def means(weights: np.ndarray) -> np.ndarray:
            by_system = np.stack([mean_of(values, mask, weights) for mask in masks], 1)  # [D, S]
            places = [(systems.index(base), systems.index(system)) for base, system in pairs]
            gaps = [by_system[:, other] - by_system[:, one] for one, other in places]
            return np.concatenate([by_system, *(gap[:, None] for gap in gaps)], axis=1)

        result = self._spread(means, [(answer, score) for answer, _, score in rows])
        standings = [
            self._standing(system, values[masks[place]], result, place)
            for place, system in enumerate(systems)
        ]
        table = self._by_rater_and_system()
        comparisons = [
            self._gap(pair, result, len(systems) + number, table)
            for number, pair in enumerate(pairs)
        ]
        return _with_holm(comparisons, 0.0, self.margin), standings

    def _standing(self, system: str, values: np.ndarray, result: Spread, place: int) -> Standing:
        low, median, high = (float(x) for x in np.percentile(values, [25, 50, 75]))
        mean = float(result.value[place])
        return Standing(system, mean, *result.interval(place), len(values), median, (low, high))

    def _gap(
        self, pair: tuple[str, str], result: Spread, place: int, table: dict[str, dict[str, float]]
    ) -> Comparison:
        """Compare two systems by ratings; listeners' means are won, tied and lost."""
        base, system = pair
        gaps = np.array([
            means[system] - means[base] for means in table.values() if {base, system} <= set(means)
        ])  # [R]  # fmt: skip
        wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
        p, number = result.p(place), sum(pair[0] in a.systems or pair[1] in a.systems
                                         for a in self.answers)  # fmt: skip
        return Comparison(
            base, system, float(result.value[place]), *result.interval(place), p, p, "", number,
            wins, len(gaps) - wins - losses, losses, self._wilcoxon(gaps),
        )  # fmt: skip

    def _by_rater_and_system(self) -> dict[str, dict[str, float]]:
        scores: defaultdict[str, defaultdict[str, list[float]]]
        scores = defaultdict(lambda: defaultdict(list))
        for answer in self.answers:
            for system, score in zip(answer.systems, answer.scores, strict=True):
                scores[answer.rater][system].append(score)
        return {
            rater: {system: float(np.mean(values)) for system, values in by_system.items()}
            for rater, by_system in scores.items()
        }

    def first_side(self) -> float | None:
        """Share of decided pairs in which the first clip was preferred."""
        if self.test.design not in ("ab", "cmos"):
            return None
        sides = [answer.scores[0] - answer.scores[1] for answer in self.answers]
        decided = [side > 0 for side in sides if side]
        return sum(decided) / len(decided) if decided else None

    def agreement(self) -> float | None:
        """Krippendorff's alpha over the trials."""
        units: defaultdict[tuple, list[float]] = defaultdict(list)
        if self.test.design == "abx":
            return None
        if self.test.design in ("ab", "cmos"):
            for answer in self.answers:
                pair, value = self._oriented(answer)
                units[answer.item, pair].append(value)
        else:
            for answer in self.answers:
                for system, score in zip(answer.systems, answer.scores, strict=True):
                    units[answer.item, system].append(score)
        return agreement(list(units.values()))

    def friedman(self) -> float | None:
        """Friedman's test on listeners' means, for three systems or more rated side by side."""
        if self.test.design != "mushra":
            return None
        table = self._by_rater_and_system()
        systems = [s for s in self.test.systems if all(s in means for means in table.values())]
        if len(systems) < 3 or len(table) < 3:
            return None
        columns = [[means[system] for means in table.values()] for system in systems]
        return float(scipy.stats.friedmanchisquare(*columns).pvalue)


def share_interval(result: Spread, listeners: int) -> tuple[float, float, float]:
    """Return the 95 % interval of a share and its p against a half, on the scale of logits.

    Where nothing scatters, Wilson's interval and the binomial test over the listeners.
    """
    share, error = float(result.value[0]), float(result.error[0])
    if np.isnan(error):
        return 0.0, 1.0, 1.0
    if not 0 < share < 1 or error == 0:
        count = round(share * listeners)
        interval = wilson(count, listeners)
        p = float(scipy.stats.binomtest(count, listeners).pvalue) if listeners else 1.0
        return interval.low, interval.high, p
    slope = error / (share * (1 - share))
    logit = Spread(np.array([log(share / (1 - share))]), np.array([slope]), result.freedom[:1])
    low, high = (1 / (1 + exp(-min(50.0, max(-50.0, end)))) for end in logit.interval(0))
    return low, high, logit.p(0)


def _with_holm(
    comparisons: Sequence[Comparison], equal: float, margin: float | None
) -> list[Comparison]:
    """Correct the p values of comparisons for their number, and give verdicts by them."""
    corrected = holm({number: c.p for number, c in enumerate(comparisons)})
    return [
        replace(c, p_holm=corrected[number], verdict=_verdict(c, corrected[number], equal, margin))
        for number, c in enumerate(comparisons)
    ]


def _verdict(c: Comparison, p: float, equal: float, margin: float | None) -> str:
    if margin is not None and equal - margin < c.low and c.high < equal + margin:
        return "equivalent"
    if p >= LEVEL:
        return "inconclusive"
    return "better" if c.value > equal else "worse"


def _told_apart(c: Comparison) -> str:
    """Return ABX's verdict. Not telling two systems apart proves nothing by itself."""
    return "told apart" if c.value > 0.5 and c.p < LEVEL else "inconclusive"


def _by_rater(raters: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Means of values [N] by listener [R]."""
    codes = np.unique(np.asarray(raters), return_inverse=True)[1]  # [N]
    return np.bincount(codes, values) / np.bincount(codes)
