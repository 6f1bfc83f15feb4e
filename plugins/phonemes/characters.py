"""Text to lower-cased letters: the front end that needs no dictionary."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from wishbone.core.contract import tags
from wishbone.core.contract.text import TextSpace, Tokenizer

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
        """The alphabet is fixed, because trained tables depend on it; marks come behind it."""

        marks: list[str] = field(default_factory=list)
        """Events and dialects with ids of their own, such as "[laughter]" and "<|dialect:us|>".
        Append; never move."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        tags.check(self.config.marks, SYMBOLS, "tokenizer.marks")
        self._symbols = (*SYMBOLS, *self.config.marks)
        self._ids = {symbol: number for number, symbol in enumerate(self._symbols)}
        specials = (_END_OF_PROMPT, *self.config.marks)
        self.space = TextSpace(
            vocabulary=len(self._symbols),
            word_ends=frozenset(self._ids[mark] for mark in _SEPARATORS),
            specials={mark: self._ids[mark] for mark in specials},
            blank=self._ids[_PAD],
        )

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; the marker ``<|endofprompt|>`` and marks in it become their own ids."""
        ids: list[int] = []
        for number, part in enumerate(text.split(_END_OF_PROMPT)):
            if number:
                ids.append(self._ids[_END_OF_PROMPT])
            ids.extend(self._encode_part(part))
        return ids

    def _encode_part(self, text: str) -> list[int]:
        words: list[list[str]] = []
        places: list[tuple[int, str, int]] = []
        for piece, is_mark in tags.split(text, self.config.marks):
            if is_mark:
                places.append((len(words), piece, self._ids[piece]))
            else:
                _append_words(piece, words)
        ids = [[self._ids[c] for c in word + separator] for word, separator in _closed(words)]
        return tags.joined(ids, places)

    def decode(self, ids: Sequence[int]) -> str:
        """The characters in a row; ids outside the alphabet show as a replacement mark."""
        symbols = self._symbols
        return "".join(symbols[i] if 0 < i < len(symbols) else "\ufffd" for i in ids)


def _append_words(text: str, words: list[list[str]]) -> None:
    """Append each word and the separators behind it; those in front belong to the last word."""
    text = unicodedata.normalize("NFKD", text.replace("’", "'")).lower()
    text = "".join(_MARKS.get(c, c) for c in text if not unicodedata.combining(c))
    text = "".join(c if c in _LETTERS or c in _SEPARATORS else " " for c in text)
    if words:
        words[-1][1] += text[: len(text) - len(text.lstrip(_SEPARATORS))]
    words += map(list, re.findall(rf"([{_LETTERS}]+)([{_SEPARATORS}]*)", text))


def _closed(words: list[list[str]]) -> list[tuple[str, str]]:
    """The words with exactly one separator behind each."""
    # the strongest of a run wins: "?!" closes a question, ", " a phrase
    closed = [(word, next((m for m in "?!.," if m in run), " ")) for word, run in words]
    if closed and closed[-1][1] in " ,":
        closed[-1] = (closed[-1][0], ".")
    return closed
