"""The contract of a teacher: a voice that exists already and speaks training data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wishbone.core.contract.part import Part


@dataclass(frozen=True)
class Word:
    """A word and how it is spoken."""

    spelling: str
    phonemes: tuple[str, ...]
    separator: str
    """Separator behind it: a space or one of ``, . ? !``."""


@dataclass(frozen=True)
class Spoken:
    """Speech of a teacher."""

    audio: Tensor
    """[S] in -1..1."""
    sample_rate: int
    word_ends: Sequence[float] = ()
    """Second at which each word ends; empty where the teacher cannot tell."""
    phoneme_ends: Sequence[float] = ()
    """The same for each phoneme of all words in a row."""


class Teacher(Part, ABC):
    """A voice that exists already and speaks training data."""

    Config: ClassVar[type]

    @abstractmethod
    def speak(self, words: Sequence[Word]) -> Spoken:
        """Speak the words with exactly the phonemes given."""

    @abstractmethod
    def read(self, text: str) -> Spoken:
        """Read text its own way, with its own front end: the yardstick in an evaluation."""
