"""Tags in a text for events and dialects, such as ``[laughter]`` and ``<|dialect:us|>``.

All front ends share the form of a tag; configurations call them ``marks``. Each tokenizer lists the
tags that its model learned; any other tag is spoken as the words in it, with a warning.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Sequence

from wishbone.core.contract.errors import ConfigError

MARK = re.compile(r"<\|[^<>|]*\|>|</?[a-z]+>|\[[a-z][a-z_-]*\]")
"""Form of a tag; no normaliser changes a tag and no cut goes through it."""


def split(text: str, tags: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Split a text at ``tags`` -> (piece, True for a tag), in order.

    Warns of a tag that is not one of ``tags``.
    """
    begin = 0
    for match in MARK.finditer(text):
        if match[0] in tags:
            yield text[begin : match.start()], False
            yield match[0], True
            begin = match.end()
        else:
            warnings.warn(
                f"'{match[0]}' is no mark of this tokenizer, so the words in it are spoken",
                stacklevel=2,
            )
    yield text[begin:], False


def joined(words: Sequence[Sequence[int]], marks: Sequence[tuple[int, str, int]]) -> list[int]:
    """Join the ids of words, each of which ends in a separator, and of the tags between them.

    A tag in ``marks`` is (number of words before it, its text, its id). It belongs to the next
    word; a tag at the end of the text, and a closing one such as ``</strong>``, to the last word.
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


def check(marks: Sequence[str], symbols: Collection[str], where: str) -> None:
    """Raise ``ConfigError`` for a tag of another form, a repeated one, and one in ``symbols``."""
    for index, mark in enumerate(marks):
        why = ""
        if not MARK.fullmatch(mark):
            why = "does not look like one"
        elif mark in symbols:
            why = "has an id already"
        elif mark in marks[:index]:
            why = "is there twice"
        if why:
            raise ConfigError(
                f"The mark '{mark}' {why}.",
                where,
                "Write marks as [laughter], <strong>, </strong> or <|dialect:us|>, each once.",
            )
