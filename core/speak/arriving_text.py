"""Sentences of a text that still arrives, spoken before they are complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wishbone.core.contract.sentences import MOST_CHARACTERS, MOST_IDS, ArrivedText, tidy
from wishbone.core.contract.text import Tokenizer


class ArrivingSentence:
    """One sentence of a text that still arrives: iterate for its ids, as soon as they are certain.

    ``encode`` and ``settled`` are a tokenizer's; concatenated, the ids are those of the whole
    sentence. True where there is anything to speak in it.
    """

    def __init__(self, source: TextSource, tokenizer: Tokenizer, most: int) -> None:
        self.text = ""
        self.ids: list[int] = []
        self._steps = self._read(source, tokenizer, most)
        self._first = next(self._steps, None)

    def __bool__(self) -> bool:
        return self._first is not None

    def __iter__(self) -> Iterator[list[int]]:
        while self._first is not None:
            ids, self._first = self._first, None
            yield ids
            self._first = next(self._steps, None)

    def _read(self, source: TextSource, tokenizer: Tokenizer, most: int) -> Iterator[list[int]]:
        """Ids of one sentence; none where nothing in it can be spoken."""
        done = 0  # characters of the sentence whose ids were yielded
        while True:
            end = source.boundary()
            complete = end is not None or source.closed
            sentence = tidy(source.text.head(end))
            if not complete and len(sentence) - done > MOST_CHARACTERS:
                # nothing is certain of so much text: it ends at a blank for want of a stop
                last = source.text.head().rstrip().rfind(" ")
                end, complete = (last, True) if last > done else (end, complete)
                sentence = tidy(source.text.head(end))
            if complete:
                ready = self._closed(sentence, done, tokenizer)
            else:
                ready = sentence[: tokenizer.settled(sentence)]
            if len(ready) > done and any(map(str.isalnum, ready)):
                ids = tokenizer.encode(ready[done:])
                self.text, self.ids, done = ready, [*self.ids, *ids], len(ready)
                if ids:
                    yield ids
            if complete:
                source.text.take(end)
                return
            if len(self.ids) >= most:
                blank = " " * source.text.take(None)[-1:].isspace()
                source.text.put_back(sentence[done:].lstrip() + blank)
                return
            source.pull()

    @staticmethod
    def _closed(sentence: str, done: int, tokenizer: Tokenizer) -> str:
        """The whole sentence as it is spoken, unchanged in its first ``done`` characters."""
        spoken = tokenizer.closed(sentence)
        if spoken.startswith(sentence[:done]):
            return spoken
        # a tokenizer that broke its promise: ids that were yielded cannot be taken back
        remaining = sentence[done:]
        blank = " " * remaining[:1].isspace()
        return sentence[:done] + blank + tokenizer.prepare(remaining)


class TextSource:
    """Text as it comes in: the part that waits to be read, and the end of its first sentence."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self.text = ArrivedText()
        self._pieces = iter(pieces)

    @property
    def closed(self) -> bool:
        """True after the last piece."""
        return self.text.closed

    def pull(self) -> None:
        """Wait for another piece."""
        piece = next(self._pieces, None)
        if piece is None:
            self.text.closed = True
        else:
            self.text.add(piece)

    def boundary(self) -> int | None:
        """Count the characters of the first sentence, once something stands after it."""
        return self.text.boundary()


def arriving(
    pieces: Iterable[str], tokenizer: Tokenizer, most: int = MOST_IDS
) -> Iterator[ArrivingSentence]:
    """Sentences of a text that arrives, each before it is complete; read one before the next.

    A sentence of more than ``most`` ids goes on as another.
    """
    source = TextSource(pieces)
    while not source.closed or len(source.text):
        sentence = ArrivingSentence(source, tokenizer, most)
        if sentence:
            yield sentence
            for _ in sentence:
                pass
