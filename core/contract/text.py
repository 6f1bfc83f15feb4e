"""The contract of a tokenizer: text to ids and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from wishbone.core.contract.extensions.teacher import Word
from wishbone.core.contract.part import Part
from wishbone.core.contract.sentences import speakable


@dataclass(frozen=True)
class TextSpace:
    """Facts of a tokenizer that a layout needs."""

    vocabulary: int
    """Number of ids; every id is below it."""
    word_ends: frozenset[int] = frozenset()
    """Ids that close a word. Empty where words cannot be told from ids."""
    specials: Mapping[str, int] = field(default_factory=dict)
    """Ids of marker strings such as ``<|endofprompt|>``."""
    blank: int | None = None
    """An id that no text has, to stand where text is left out on purpose; None without one."""
    opening: tuple[int, ...] = ()
    """Ids with which a prefix before every text begins, for layouts that have one."""


class Tokenizer(Part, ABC):
    """Text to ids and back. Never fails on a character it does not know."""

    space: TextSpace
    ready: bool = True
    """False where no files are named and only sizes are known: ``encode`` then raises."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; none where nothing in it can be spoken."""

    def encode_words(self, words: Sequence[Word]) -> list[int] | None:
        """Return the ids of words with their pronunciation; None where ids do not depend on it."""
        return None

    def words(self, text: str) -> list[Word] | None:
        """Return the words of ``text`` with their phonemes, for teachers and aligners.

        None from a tokenizer that knows no pronunciations, whatever the text.
        """
        return None

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return a readable form of ``ids`` for logs; not always the text they came from."""

    def prepare(self, text: str) -> str:
        """Normalise ``text`` for ``encode``, such as numbers to words."""
        return text

    def left_out(self, text: str) -> list[str]:
        """Name what in ``text`` cannot be spoken, such as another script, in order, each once."""
        return []

    def pieces(self, text: str | Iterable[str]) -> Iterator[tuple[str, list[int]]]:
        """Cut a text, which may arrive in parts, into pieces to speak in turn -> (piece, ids)."""
        return speakable(text, self.encode)

    def settled(self, text: str) -> int:
        """Count the characters at the start of ``text`` whose ids do not depend on what follows.

        0 where only whole sentences are certain. ``prepare`` leaves these characters as they are.
        """
        return 0

    def closed(self, sentence: str) -> str:
        """Normalise a sentence of which all has arrived.

        What comes back begins with the characters that ``settled`` counted while it arrived,
        because these may have been spoken.
        """
        return self.prepare(sentence)


def split_words(ids: Sequence[int], closing: frozenset[int]) -> list[tuple[int, ...]]:
    """Cut ids after every id that closes a word; the ids after the last cut are a word, too."""
    words, begin = [], 0
    for index, token in enumerate(ids, start=1):
        if token in closing:
            words.append(tuple(ids[begin:index]))
            begin = index
    if begin < len(ids):
        words.append(tuple(ids[begin:]))
    return words
