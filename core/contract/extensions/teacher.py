"""The contract of a teacher: another synthesiser that speaks training data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from wishbone.core.contract.part import Part


@dataclass(frozen=True)
class Word:
    """A word and its pronunciation."""

    spelling: str
    phonemes: tuple[str, ...]
    separator: str
    """Separator behind it: a space or one of ``, . ? !``."""


@dataclass(frozen=True)
class Spoken:
    """Speech of a teacher."""

    audio: Tensor
    """[S] in -1..1, float."""
    sample_rate: int
    word_ends: Sequence[float] = ()
    """Second at which each word ends; empty where the teacher does not know."""
    phoneme_ends: Sequence[float] = ()
    """The same for each phoneme of all words in a row."""


class Teacher(Part, ABC):
    """A voice of another synthesiser that speaks training data."""

    @abstractmethod
    def speak(self, words: Sequence[Word]) -> Spoken:
        """Speak ``words`` by their phonemes alone."""

    @abstractmethod
    def read(self, text: str) -> Spoken:
        """Speak a text with the teacher's own front end: the reference in an evaluation."""
