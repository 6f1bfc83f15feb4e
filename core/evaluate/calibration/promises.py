"""Every promise of the statistics as a simulation, and the table of what was found.

Each line draws invented data many times and asks the repository's own functions, the same that
``wishbone ab`` calls. ``wishbone evaluate calibration`` prints the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.calibration.worlds import Speaker, World, draw
from wishbone.core.evaluate.statistics import looks, paired
from wishbone.core.evaluate.statistics.contrast import Tables, contrast
from wishbone.core.evaluate.statistics.verdict import ALPHA, Asked, ask, judge
from wishbone.core.report.table import Table

ABOUT = """What `wishbone ab` promises, and what many invented experiments show. The data are
invented so that the truth is known, and scatter as measured word errors do
(`core/evaluate/calibration/worlds.py`); the statistics are the repository's own. `+-` is two
standard errors of the simulation; a rate is kept within them."""
DRAWS = 400
"""Resamples of a trial: fewer than of a result, because trials are many."""
WORST, MARGIN = 100.0, 2.0
"""Of word errors, as ``wishbone ab`` has them."""
WER = MetricInfo(
    key="wer", title="word errors", unit="%", better="lower", margin=MARGIN,
    about="Invented.", worst=WORST, primary=True,
)  # fmt: skip
GOOD, FAIR = Speaker(1.0, 1.0), Speaker(5.5, 2.5)
"""Arms with 2 and 8 % word errors."""


@dataclass(frozen=True)
class Promise:
    """A rate that shall lie between two limits, all in percent."""

    name: str
    least: float
    most: float
    trial: Callable[[np.random.Generator], bool]
    """One trial: True where what is counted happened."""


@dataclass(frozen=True)
class Answer:
    """What a simulation found."""

    promise: Promise
    percent: float
    trials: int

    @property
    def error(self) -> float:
        """Two standard errors of the percentage, as far as chance goes at the nearer limit."""
        limits = (self.promise.least, self.promise.most)
        if limits == (0, 0):
            return 0.0  # what must never happen happens by no chance
        nearer = min(limits, key=lambda limit: abs(limit - self.percent))
        share = min(0.99, max(0.01, nearer / 100))
        return 200 * sqrt(share * (1 - share) / self.trials)

    @property
    def kept(self) -> bool:
        """True where the rate lies between the limits, up to the chance of the simulation."""
        low, high = self.promise.least - self.error, self.promise.most + self.error
        return low <= self.percent <= high


def simulate(promise: Promise, trials: int, seed: int = 0) -> Answer:
    """Count how often what a promise is about happens."""
    random = np.random.default_rng(seed)
    count = sum(bool(promise.trial(random)) for _ in range(trials))
    return Answer(promise, 100 * count / trials, trials)


def covers(world: World) -> Callable[[np.random.Generator], bool]:
    """A trial: the 95 % interval holds the true difference, of new voices where there are some."""

    def trial(random: np.random.Generator) -> bool:
        arms, words = draw(world, random)
        interval = contrast(arms, (-1, 1), words, voices=world.voices, draws=DRAWS).interval
        return interval.low <= world.truth <= interval.high

    return trial


def alarms(world: World) -> Callable[[np.random.Generator], bool]:
    """A trial: p is at most 0.05."""

    def trial(random: np.random.Generator) -> bool:
        arms, words = draw(world, random)
        return contrast(arms, (-1, 1), words, draws=DRAWS).p <= ALPHA

    return trial


def says(world: World, *verdicts: str) -> Callable[[np.random.Generator], bool]:
    """A trial: the verdict is one of these."""

    def trial(random: np.random.Generator) -> bool:
        return verdict(world, random) in verdicts

    return trial


def verdict(world: World, random: np.random.Generator) -> str:
    """The verdict on one draw of a world, as ``wishbone ab`` gives it."""
    return _judged([_asked(*draw(world, random))])[0]


def _asked(arms: list[np.ndarray], words: np.ndarray) -> Asked:
    return ask(Tables(arms, words, 0), (-1, 1), WER, draws=DRAWS)


def _judged(family: list[Asked], alpha: float = ALPHA) -> list[str]:
    return [outcome.verdict for outcome, _ in judge(family, alpha, quick=False)]


def any_of(claims: int, world: World) -> Callable[[np.random.Generator], bool]:
    """A trial: one of several claims that are judged together is a false difference."""

    def trial(random: np.random.Generator) -> bool:
        verdicts = _judged([_asked(*draw(world, random)) for _ in range(claims)])
        return any(answer in ("better", "worse") for answer in verdicts)

    return trial


def looked(world: World, counts: list[int]) -> Callable[[np.random.Generator], bool]:
    """A trial: stopped at the first of several looks that finds a difference."""
    parts = looks.parts(counts, ALPHA)

    def trial(random: np.random.Generator) -> bool:
        arms, words = draw(world, random)
        return any(
            _judged([_asked([arm[:, :count] for arm in arms], words[:count])], part)[0]
            in ("better", "worse")
            for count, part in zip(counts, parts, strict=True)
        )

    return trial


def failures_covered(prompts: int, tries: int, rate: float, alike: float) -> Callable:
    """A trial: the interval of a failure rate holds it; ``alike`` is the correlation of tries."""

    def trial(random: np.random.Generator) -> bool:
        chance: np.ndarray | float = rate
        if alike:
            size = 1 / alike - 1
            chance = random.beta(rate * size, (1 - rate) * size, prompts)  # [U]
        counts = random.binomial(tries, chance, prompts)  # [U]
        interval = paired.clustered_rate(counts, tries)
        return interval.low <= rate <= interval.high

    return trial


def promises() -> list[Promise]:
    """All of them, in the order of the table."""
    return [*_intervals(), *_voices(), *_lost(), *_families(), *_failures()]


def _intervals() -> list[Promise]:
    listed = [
        Promise(f"interval, {n} prompts, once each", 93, 97, covers(World(FAIR, FAIR, n)))
        for n in (24, 100)
    ]
    listed += [
        Promise(f"interval, {n} prompts, three times each", 93, 97, covers(World(FAIR, FAIR, n, 3)))
        for n in (24, 100)
    ]
    for trainings in (2, 3, 5):
        for spread in (0.5, 1.5):
            speaker = Speaker(FAIR.hard, 3.5, seeds=spread)
            world = World(speaker, speaker, 48, trainings=trainings)
            name = f"interval, {trainings} trainings that vary {spread:g} points"
            listed.append(Promise(name, 93, 97, covers(world)))
    name = "false difference, 24 prompts, once each"
    return [*listed, Promise(name, 3, 7, alarms(World(FAIR, FAIR, 24)))]


def _voices() -> list[Promise]:
    listed = []
    for voices in (3, 8):
        for spread in (0.0, 1.0):
            # the second arm is better in some voices and worse in others
            own = Speaker(FAIR.hard, 3.5)
            world = World(own, Speaker(own.hard, own.own, voices=spread), 24, voices=voices)
            name = f"interval, {voices} voices that vary {spread:g} points, 24 prompts"
            listed.append(Promise(name, 93, 100 if spread == 0 else 98, covers(world)))
    return listed


def _lost() -> list[Promise]:
    listed = []
    for prompts in (24, 48, 100, 200, 300):
        # equal at 3 %, but one arm loses one sentence in 97
        world = World(Speaker(1.0, 2.0), Speaker(1.0, 1.0, lost=1 / 97), prompts)
        name = f"'better' for an equal arm that loses 1 sentence in 97, {prompts} prompts"
        listed.append(Promise(name, 0, 2.5, says(world, "better")))
    for prompts in (24, 100, 300):
        world = World(GOOD, Speaker(1.0, 1.0, lost=1 / 49), prompts)
        name = f"'equivalent' at the margin, lost sentences, 2 against 4 %, {prompts} prompts"
        listed.append(Promise(name, 0, 5, says(world, "equivalent")))
    for prompts in (48, 300):
        world = World(GOOD, Speaker(1.0, 3.0), prompts)
        name = f"'equivalent' at the margin, 2 against 4 %, {prompts} prompts"
        listed.append(Promise(name, 0, 5, says(world, "equivalent")))
    world = World(Speaker(0.0, 0.0), Speaker(0.0, 0.0), 6)
    listed.append(
        Promise("'equivalent' of six flawless sentences", 0, 0, says(world, "equivalent"))
    )
    name = "'better' where 8 % become 6 %, 300 prompts (power)"
    world = World(FAIR, Speaker(FAIR.hard, 0.5), 300)
    listed.append(Promise(name, 80, 100, says(world, "better")))
    name = "'equivalent' of equal arms with 2 %, 300 prompts (power)"
    return [*listed, Promise(name, 80, 100, says(World(GOOD, GOOD, 300), "equivalent"))]


def _families() -> list[Promise]:
    equal = World(FAIR, FAIR, 100)
    spread = [12, 24, 36, 48, 60, 72, 84, 100]
    return [
        Promise("any false difference of six primary claims, 100 prompts", 0, 5, any_of(6, equal)),
        Promise("any false difference in eight planned looks", 0, 5, looked(equal, spread)),
    ]


def _failures() -> list[Promise]:
    sizes = ((24, 3, 0.5), (48, 9, 0.5), (48, 9, 0.0))
    return [
        Promise(
            f"failure rate of 3 %, {prompts} prompts x {tries}, tries alike by {alike:g}",
            93, 100, failures_covered(prompts, tries, 0.03, alike),
        )
        for prompts, tries, alike in sizes
    ]  # fmt: skip


def table(answers: list[Answer]) -> Table:
    """Tabulate what was promised and what was found."""
    rows = [
        [
            answer.promise.name,
            f"{answer.promise.least:g} to {answer.promise.most:g} %",
            f"{answer.percent:.1f} %",
            f"{answer.error:.1f}",
            "kept" if answer.kept else "broken",
        ]
        for answer in answers
    ]
    head = ["promise", "nominal", "found", "+-", ""]
    return Table("Promises of the statistics, by simulation", head, rows, ("promise", ""))
