"""The contract of a tokenizer: text to ids and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from wishbone.core.contract.part import Part
from wishbone.core.contract.teacher import Word


@dataclass(frozen=True)
class TextSpace:
    """Facts about a tokenizer that a layout needs."""

    vocabulary: int
    """Number of ids; every id is below it."""
    word_ends: frozenset[int] = frozenset()
    """Ids that close a word. Empty where words cannot be told from ids."""
    specials: Mapping[str, int] = field(default_factory=dict)
    """Ids of marker strings such as ``<|endofprompt|>``."""
    blank: int | None = None
    """An id that no text has, to stand where text is left out on purpose; None without one."""


class Tokenizer(Part, ABC):
    """Text to ids and back. Never fails on a character it does not know."""

    space: TextSpace
    ready: bool = True
    """False where it was given no files and has only its sizes: ``encode`` raises then."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; an empty list when nothing in it can be spoken."""

    def encode_words(self, words: Sequence[Word]) -> list[int] | None:
        """Ids of words as they were spoken; None where ids say nothing of the pronunciation."""
        return None

    def words(self, text: str) -> list[Word] | None:
        """The words of ``text`` with their phonemes, for teachers and aligners.

        None from a tokenizer that knows no pronunciations, whatever the text.
        """
        return None

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """A readable form of ``ids``; for logs, not always the text they came from."""

    def prepare(self, text: str) -> str:
        """``text`` as it is spoken, such as with its numbers in words, ready for ``encode``."""
        return text

    def pieces(self, text: str | Iterable[str]) -> Iterator[tuple[str, list[int]]]:
        """Pieces of a text, or of one that arrives, to speak one after another, with their ids."""
        from wishbone.core.contract.sentences import speakable

        return speakable(text, self.encode)

    def settled(self, text: str) -> int:
        """Count the characters in front of ``text`` whose ids nothing after them changes.

        0 where only whole sentences are certain. Where ``prepare`` changes something, what it
        leaves as it is whatever follows.
        """
        return 0

    def closed(self, sentence: str) -> str:
        """A sentence that arrived, now that it is whole, as it is spoken.

        It begins with all that was settled of it.
        """
        return self.prepare(sentence)
