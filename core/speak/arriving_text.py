"""Sentences of a text that still arrives, spoken before they are complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wishbone.core.contract.text import Tokenizer

from wishbone.core.contract.sentences import (
    BOUNDARY,
    MOST_CHARACTERS,
    MOST_IDS,
    _ends_sentence,
    _tidy,
)


class Arriving:
    """One sentence of a text that still arrives: iterate for its ids, as soon as they are certain.

    ``encode`` and ``settled`` are a tokenizer's; concatenated, the ids are those of the whole
    sentence.
    """

    def __init__(self, source: Source, tokenizer: Tokenizer, most: int) -> None:
        self.text = ""
        self.ids: list[int] = []
        self._steps = self._read(source, tokenizer, most)
        self._first = next(self._steps, None)

    def __bool__(self) -> bool:
        """Whether there is anything to say."""
        return self._first is not None

    def __iter__(self) -> Iterator[list[int]]:
        while self._first is not None:
            ids, self._first = self._first, None
            yield ids
            self._first = next(self._steps, None)

    def _read(self, source: Source, tokenizer: Tokenizer, most: int) -> Iterator[list[int]]:
        """Ids of one sentence; nothing at all if there is nothing to say in it."""
        given = 0
        while True:
            end = source.boundary()
            over = end is not None or source.closed
            said = _tidy(source.waiting[:end])
            if not over and len(said) - given > MOST_CHARACTERS:
                # nothing is certain of so much text: it ends at a blank for want of a stop
                last = source.waiting.rstrip().rfind(" ")
                end, over = (last, True) if last > given else (end, over)
                said = _tidy(source.waiting[:end])
            if over:
                ready = self._closed(said, given, tokenizer)
            else:
                ready = said[: tokenizer.settled(said)]
            if len(ready) > given and any(map(str.isalnum, ready)):
                ids = tokenizer.encode(ready[given:])
                self.text, self.ids, given = ready, [*self.ids, *ids], len(ready)
                if ids:
                    yield ids
            if over:
                source.waiting = source.waiting[end:] if end is not None else ""
                return
            if len(self.ids) >= most:
                blank = " " * source.waiting[-1:].isspace()
                source.waiting = said[given:].lstrip() + blank
                return
            source.pull()

    @staticmethod
    def _closed(said: str, given: int, tokenizer: Tokenizer) -> str:
        """The whole sentence as it is spoken, behind the characters that were given out."""
        spoken = tokenizer.closed(said)
        if spoken.startswith(said[:given]):
            return spoken
        # a tokenizer that is not true to its word: what was given out cannot be taken back
        rest = said[given:]
        blank = " " * rest[:1].isspace()
        return said[:given] + blank + tokenizer.prepare(rest)


class Source:
    """Text as it comes in: what waits to be read, and where its first sentence ends."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self.waiting = ""
        self.closed = False
        self._pieces = iter(pieces)

    def pull(self) -> None:
        """Wait for another piece."""
        piece = next(self._pieces, None)
        self.waiting += piece or ""
        self.closed = piece is None

    def boundary(self) -> int | None:
        """Where the first sentence ends, once something stands after it."""
        found = BOUNDARY.finditer(self.waiting)
        return next((b.end() for b in found if _ends_sentence(self.waiting, b)), None)


def arriving(
    pieces: Iterable[str], tokenizer: Tokenizer, most: int = MOST_IDS
) -> Iterator[Arriving]:
    """Sentences of a text that arrives, each before it is complete; read one before the next.

    A sentence of more than ``most`` ids goes on as another.
    """
    source = Source(pieces)
    while not source.closed or source.waiting:
        sentence = Arriving(source, tokenizer, most)
        if sentence:
            yield sentence
            for _ in sentence:
                pass
