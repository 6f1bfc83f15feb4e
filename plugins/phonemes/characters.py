"""Text to lower-cased letters: the front end that needs no dictionary."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from wishbone.core.interfaces import TextSpace, Tokenizer

_PAD = "<pad>"
_END_OF_PROMPT = "<|endofprompt|>"
_SEPARATORS = " ,.?!"
_LETTERS = "abcdefghijklmnopqrstuvwxyz'0123456789"
SYMBOLS = (_PAD, *_LETTERS, *_SEPARATORS, _END_OF_PROMPT)
_MARKS = {";": ",", ":": ",", "—": ",", "–": ",", "…": ".", "\n": " "}


class CharacterTokenizer(Tokenizer):
    """Letters ``a-z``, the apostrophe and digits; a space or ``, . ? !`` closes every word.

    Diacritics are removed and everything else is dropped. Digits stay digits: a model that
    should say numbers well wants text in which they are written out.
    """

    @dataclass
    class Config:
        """Nothing to choose: the alphabet is fixed, because trained tables depend on it."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self._ids = {symbol: number for number, symbol in enumerate(SYMBOLS)}
        self.space = TextSpace(
            vocabulary=len(SYMBOLS),
            word_ends=frozenset(self._ids[mark] for mark in _SEPARATORS),
            specials={_END_OF_PROMPT: self._ids[_END_OF_PROMPT]},
            blank=self._ids[_PAD],
        )

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; the marker ``<|endofprompt|>`` in it becomes its own id."""
        ids: list[int] = []
        for number, part in enumerate(text.split(_END_OF_PROMPT)):
            if number:
                ids.append(self._ids[_END_OF_PROMPT])
            ids.extend(self._ids[character] for character in _normalise(part))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The characters in a row; ids outside the alphabet show as a replacement mark."""
        return "".join(SYMBOLS[i] if 0 < i < len(SYMBOLS) else "\ufffd" for i in ids)


def _normalise(text: str) -> str:
    """Known characters only, with exactly one separator after every word."""
    text = unicodedata.normalize("NFKD", text.replace("’", "'")).lower()
    text = "".join(_MARKS.get(c, c) for c in text if not unicodedata.combining(c))
    text = "".join(c if c in _LETTERS or c in _SEPARATORS else " " for c in text)
    # The strongest mark of a run wins: "?!" closes a question, ", " a phrase.
    words = re.findall(rf"([{_LETTERS}]+)([{_SEPARATORS}]*)", text)
    closed = [(word, next((m for m in "?!.," if m in marks), " ")) for word, marks in words]
    if closed and closed[-1][1] in " ,":
        closed[-1] = (closed[-1][0], ".")
    return "".join(word + mark for word, mark in closed)
