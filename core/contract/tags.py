"""Marks in a text: ``[laughter]``, ``<strong>``, ``<|dialect:us|>`` tell how to speak, unspoken.

Every front end agrees here on what looks like a mark. Which marks a model knows is its tokenizer's
affair; one that it does not know is read as the words in it, with a warning.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Sequence

from wishbone.core.contract.errors import ConfigError

MARK = re.compile(r"<\|[^<>|]*\|>|</?[a-z]+>|\[[a-z][a-z_-]*\]")
"""What tells how to speak; no normaliser touches it and no cut goes through it."""


def split(text: str, known: Collection[str]) -> Iterator[tuple[str, bool]]:
    """What is between known marks, and the marks, in order: (piece, whether it is one).

    Warns of what looks like a mark and is none.
    """
    begin = 0
    for found in MARK.finditer(text):
        if found[0] in known:
            yield text[begin : found.start()], False
            yield found[0], True
            begin = found.end()
        else:
            warnings.warn(
                f"'{found[0]}' is no mark of this tokenizer, so the words in it are spoken",
                stacklevel=2,
            )
    yield text[begin:], False


def joined(words: Sequence[Sequence[int]], marks: Sequence[tuple[int, str, int]]) -> list[int]:
    """Ids of words, each closed by one separator, with marks among them.

    A mark is (how many words stand before it, its text, its id). It belongs to the word behind it;
    the last one, and one that closes as ``</strong>`` does, to the word in front.
    """
    behind: dict[int, list[int]] = {}
    front: dict[int, list[int]] = {}
    for place, mark, row in marks:
        closes = place == len(words) or mark.startswith("</")
        side, index = (front, place - 1) if closes and place else (behind, place)
        side.setdefault(index, []).append(row)
    ids = []
    for index, word in enumerate(words):
        ids += [*behind.get(index, ()), *word[:-1], *front.get(index, ()), word[-1]]
    return ids if words else [row for _, _, row in marks]


def check(marks: Sequence[str], taken: Collection[str], where: str) -> None:
    """Raise ``ConfigError`` for what does not look like a mark, is there twice or is taken."""
    for index, mark in enumerate(marks):
        why = ""
        if not MARK.fullmatch(mark):
            why = "does not look like one"
        elif mark in taken:
            why = "has an id already"
        elif mark in marks[:index]:
            why = "is there twice"
        if why:
            raise ConfigError(
                f"The mark '{mark}' {why}.",
                where,
                "Write marks as [laughter], <strong>, </strong> or <|dialect:us|>, each once.",
            )
