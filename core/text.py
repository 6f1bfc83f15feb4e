"""Text of any length to pieces that can be spoken one after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from wishbone.core.marks import MARK

if TYPE_CHECKING:
    from wishbone.core.interfaces import Tokenizer

MOST_IDS = 160
"""Ids in one piece: about ten seconds of speech, the length the bundled voices learned from."""

MOST_CHARACTERS = 2 * MOST_IDS
"""A piece longer than this is cut before it is encoded; few texts need over two letters an id."""

# stops, the quotes and brackets that close with them, and the blank before whatever follows; or an
# empty line; or a stop of a script that writes without blanks
BOUNDARY = re.compile(
    r"""(?P<stop>[.!?…]+)["'”’»)\]]*\s+(?=\S)
    | \n[^\S\n]*\n\s*(?=\S)
    | [。！？]+["”’」』）]*(?=[^"”’」』）])""",
    re.VERBOSE,
)

TITLES = frozenset(
    "mr mrs ms dr prof st capt col gen lt sgt maj cmdr rev hon messrs mme mlle mt ft".split()
    + ["e.g", "i.e", "vs", "cf"]
)
"""What their full stop never ends a sentence after."""

BEFORE_NUMBERS = frozenset("no nos p pp vol ch fig sec art".split())
"""What a number follows: "No. 5" goes on, "He said no. Then" does not."""

LAST_WORD = re.compile(r"[^\s\"'“‘«(\[—–]+$")

# where a long sentence is best cut, best first
BREAKS = (re.compile(r"[;:—–…]\s*|\.\s+"), re.compile(r"[,，、)]\s*"), re.compile(r"\s+"))


def sentences(text: str | Iterable[str]) -> Iterator[str]:
    """Sentences of a text, or of pieces of text as they arrive.

    A sentence is given out as soon as the first character after it is known, and the way the text
    was cut into pieces changes nothing.
    """
    waiting = ""
    for piece in [text] if isinstance(text, str) else text:
        waiting += piece
        begin = 0
        for boundary in BOUNDARY.finditer(waiting):
            if _ends_sentence(waiting, boundary):
                if sentence := _tidy(waiting[begin : boundary.end()]):
                    yield sentence
                begin = boundary.end()
        waiting = waiting[begin:]
    if sentence := _tidy(waiting):
        yield sentence


def speakable(
    text: str | Iterable[str], encode: Callable[[str], list[int]], most: int = MOST_IDS
) -> Iterator[tuple[str, list[int]]]:
    """Pieces of a text, each with its ids: sentences, and parts of those that have too many ids.

    What cannot be spoken at all is left out.
    """
    for sentence in sentences(text):
        yield from _fit(sentence, encode, most)


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


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _ends_sentence(text: str, boundary: re.Match[str]) -> bool:
    follows = text[boundary.end()]
    if boundary["stop"] and follows.islower():
        return False
    if boundary["stop"] != ".":
        return True
    found = LAST_WORD.search(text, 0, boundary.start())
    word = found[0] if found else ""
    if word.lower() in TITLES:
        return False
    if word.lower() in BEFORE_NUMBERS:
        return not follows.isdigit()
    initial = len(word) == 1 and word.isupper() and word != "I"
    return not initial


def _fit(
    text: str, encode: Callable[[str], list[int]], most: int
) -> Iterator[tuple[str, list[int]]]:
    ids = encode(text) if len(text) <= MOST_CHARACTERS else None
    if ids is not None and len(ids) <= most or len(text) == 1:
        if ids:
            yield text, ids
        return
    cut = best_cut(text)
    for half in (text[:cut].strip(), text[cut:].strip()):
        if half:
            yield from _fit(half, encode, most)


def best_cut(text: str) -> int:
    """Where to cut a text in two: a break in its middle half, the best kind there is."""
    middle = len(text) / 2
    marks = [found.span() for found in MARK.finditer(text)]
    for breaks in BREAKS:
        places = [found.end() for found in breaks.finditer(text)]
        places = [at for at in places if not any(a < at < b for a, b in marks)]
        inside = [place for place in places if abs(place - middle) <= middle / 2]
        if inside:
            return min(inside, key=lambda place: abs(place - middle))
    return len(text) // 2
