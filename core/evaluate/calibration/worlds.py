"""Invented word errors that scatter as measured ones do.

Sentences have hard words, which every arm misses with a chance of 0.8, and each arm errs on its
own besides (gamma-Poisson). The numbers are fitted to six checkpoints on 48 sentences
(``configs/ab/backbone-by-seed.json``): there half of the sentences have no error, the variance is
1.6 to 1.7 times the mean, and the errors of two checkpoints correlate by 0.64 to 0.67.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TYPICAL = 12.8
"""Words of a sentence on average."""
SHAPE_HARD, SHAPE_OWN = 0.91, 0.93
"""Shapes of the gamma distributions of hard words and of an arm's own errors."""
MISSED = 0.8
"""Chance that an arm misses a hard word."""


@dataclass(frozen=True)
class Speaker:
    """An arm of an invented world."""

    hard: float
    """Errors on hard words, in percent of all words; the same for all arms of a world."""
    own: float
    """Its own errors, in percent of all words."""
    lost: float = 0.0
    """Chance that a sentence is lost altogether."""
    seeds: float = 0.0
    """Standard deviation over trainings, in points of word errors."""
    voices: float = 0.0
    """Standard deviation over voices, likewise."""


@dataclass(frozen=True)
class World:
    """Two arms and the size of the study."""

    one: Speaker
    other: Speaker
    prompts: int
    repeats: int = 1
    trainings: int = 1
    voices: int = 1
    """Each says all prompts."""

    @property
    def truth(self) -> float:
        """The difference of the arms' word errors, other minus one, in points."""
        rates = [
            speaker.lost * 100 + (1 - speaker.lost) * (speaker.hard + speaker.own)
            for speaker in (self.one, self.other)
        ]
        return rates[1] - rates[0]


def draw(world: World, random: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Word errors of both arms in percent, each [K, U, R], and the words of the sentences [U]."""
    words = random.integers(6, 20, world.prompts).astype(float)  # [P]
    scatter = random.gamma(SHAPE_HARD, 1 / SHAPE_HARD, world.prompts)  # [P]
    # all prompts in the first voice, then all in the second
    words, scatter = np.tile(words, world.voices), np.tile(scatter, world.voices)  # [U], [U]
    length = words / TYPICAL  # [U]
    errors_hard = world.one.hard * TYPICAL / 100
    hard = random.poisson(scatter * errors_hard / MISSED * length)  # [U]
    size = (world.trainings, len(words), world.repeats)
    arms = []
    for speaker in (world.one, world.other):
        rate = speaker.own + random.normal(0, speaker.seeds, (world.trainings, 1, 1))  # [K, 1, 1]
        by_voice = random.normal(0, speaker.voices, world.voices)  # [V]
        rate = rate + np.repeat(by_voice, world.prompts)[:, None]  # [K, U, 1]
        rate = np.maximum(0, rate) * TYPICAL / 100
        own = random.gamma(SHAPE_OWN, 1 / SHAPE_OWN, size) * rate * length[:, None]  # [K, U, R]
        errors = random.binomial(hard[:, None], MISSED, size) + random.poisson(own)  # [K, U, R]
        values = 100 * np.minimum(errors, words[:, None]) / words[:, None]  # [K, U, R]
        arms.append(np.where(random.random(size) < speaker.lost, 100.0, values))
    return arms, words
