"""Cutting a text of any length into pieces to speak one after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from wishbone.core.contract.tags import MARK

MOST_IDS = 160
"""Ids in one piece: about ten seconds of speech, the length the bundled voices trained on."""

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
"""Abbreviations: their full stop ends no sentence."""

BEFORE_NUMBERS = frozenset("no nos p pp vol ch fig sec art".split())
"""Abbreviations in front of a number: "No. 5" goes on, "He said no. Then" does not."""

LAST_WORD = re.compile(r"[^\s\"'“‘«(\[—–]+$")

# places to cut a long sentence at, best first
BREAKS = (re.compile(r"[;:—–…]\s*|\.\s+"), re.compile(r"[,，、)]\s*"), re.compile(r"\s+"))


def sentences(text: str | Iterable[str]) -> Iterator[str]:
    """Yield the sentences of a text, which may arrive in parts.

    A sentence is yielded as soon as the first character after it has arrived; sentences do not
    depend on the way the text is split into parts.
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
    """Yield pieces of a text with their ids: sentences, and parts of those with too many ids.

    ``most`` is the number of ids above which a sentence is cut. Pieces without ids are left out.
    """
    for sentence in sentences(text):
        yield from _fit(sentence, encode, most)


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _ends_sentence(text: str, boundary: re.Match[str]) -> bool:
    follows = text[boundary.end()]
    if boundary["stop"] and follows.islower():
        return False
    if boundary["stop"] != ".":
        return True
    match = LAST_WORD.search(text, 0, boundary.start())
    word = match[0] if match else ""
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
    """Return the index at which to cut a text in two: the best break in its middle half."""
    middle = len(text) / 2
    tags = [match.span() for match in MARK.finditer(text)]
    for breaks in BREAKS:
        places = [match.end() for match in breaks.finditer(text)]
        places = [place for place in places if not any(a < place < b for a, b in tags)]
        inside = [place for place in places if abs(place - middle) <= middle / 2]
        if inside:
            return min(inside, key=lambda place: abs(place - middle))
    return len(text) // 2
