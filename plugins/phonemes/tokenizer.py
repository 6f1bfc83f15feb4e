"""Text to phonemes of American English by gruut: one id per phoneme, one separator per word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any

from wishbone.core.contract import tags
from wishbone.core.contract.extensions.teacher import Word
from wishbone.core.contract.tags import MARK
from wishbone.core.contract.text import TextSpace, Tokenizer
from wishbone.plugins.phonemes import front_end
from wishbone.plugins.phonemes.homographs import phonemes_by_neighbours
from wishbone.plugins.phonemes.normalise import is_html, left_out, normalise
from wishbone.plugins.phonemes.symbols import (
    BREAKS,
    CONSONANTS,
    END_OF_PROMPT,
    PAD,
    SEPARATORS,
    SYMBOLS,
    UNSTRESSED,
)

_LETTERS = re.compile(r"(?<![\w'])[A-Z](?: [A-Z])+(?![\w'])")
_SPELT = re.compile(r"(?<![\w'])((?:[A-Z] ){8,}[A-Z])(?![\w'])")  # too much for gruut
_PLACES = re.compile(rf"({MARK.pattern})(?!\()")
_PARTS = re.compile(r"[A-Za-z']+|[,.!?;:]")
_FIGURES = frozenset(
    "oh zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty"
    " ninety hundred thousand million billion point minus plus times equals percent".split()
)
MANY = 10
"""Words from which figures are read one by one: below, gruut's time is not felt."""
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class PhonemeTokenizer(Tokenizer):
    """Phonemes with their stress marks; a separator (space or ``, . ? !``) closes every word.

    ``normalise`` writes out numbers, dates, signs and abbreviations; gruut's lexicon pronounces the
    words, and its letter-to-sound model those outside it. Characters that nobody can
    pronounce are dropped. No string makes it raise.
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
        # a text that is cut in two again and again, or says the same again, is read once
        self._encoded = lru_cache(maxsize=1 << 10)(self._encode)
        self._word_ids = lru_cache(maxsize=1 << 14)(self._ids_of_word)
        specials = (END_OF_PROMPT, *self.config.marks)
        self.space = TextSpace(
            vocabulary=len(self._symbols),
            word_ends=frozenset(self._ids[mark] for mark in SEPARATORS),
            specials={mark: self._ids[mark] for mark in specials},
            blank=self._ids[PAD],
        )

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; the marker ``<|endofprompt|>`` and marks in it become their own ids."""
        return list(self._encoded(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        text = self.prepare(text)
        for number, part in enumerate(text.split(END_OF_PROMPT)):
            if number:
                ids.append(self._ids[END_OF_PROMPT])
            ids.extend(self._encode_part(part))
        return tuple(ids)

    def _encode_part(self, text: str) -> list[int]:
        words: list[Word] = []
        places: list[tuple[int, str, int]] = []
        for piece, is_mark in tags.split(text, self.config.marks):
            if is_mark:
                places.append((len(words), piece, self._ids[piece]))
            else:
                _append_words(piece, words)
        return tags.joined([self.encode_words([word]) for word in _closed(words)], places)

    def decode(self, ids: Sequence[int]) -> str:
        """The phonemes written in a row; ids outside the alphabet show as a question mark box."""
        symbols = self._symbols
        return "".join(symbols[i] if 0 < i < len(symbols) else "\ufffd" for i in ids)

    def words(self, text: str) -> list[Word]:
        """The words of ``text`` as they are spoken."""
        return _words(self.prepare(text))

    def prepare(self, text: str) -> str:
        """The words that are spoken for ``text``; marks stay, and so does what looks like one."""
        parts = _PLACES.split(text)
        words = "".join(
            part if number % 2 and not is_html(part) or part in self.config.marks
            else normalise(part) for number, part in enumerate(parts)
        )  # fmt: skip
        return words.strip()

    def closed(self, sentence: str) -> str:
        """The sentence itself: ``encode`` writes its words out."""
        return sentence

    def left_out(self, text: str) -> list[str]:
        """Other scripts and pictures in ``text``, which nobody here can say."""
        return left_out(text)

    def encode_words(self, words: Sequence[Word]) -> list[int]:
        """Ids of words: the phonemes of each, then exactly one separator.

        A phoneme outside the alphabet is dropped and an unknown separator becomes a space, so
        that the number of separators always equals the number of words.
        """
        return [i for word in words for i in self._word_ids(tuple(word.phonemes), word.separator)]

    def _ids_of_word(self, phonemes: tuple[str, ...], separator: str) -> tuple[int, ...]:
        ids = (self._ids.get(_unstress_consonant(phoneme)) for phoneme in phonemes)
        closing = self._ids[separator if separator in SEPARATORS else " "]
        return (*(i for i in ids if i is not None), closing)


def _words(text: str) -> list[Word]:
    words: list[Word] = []
    _append_words(text, words)
    return _closed(words)


def _append_words(text: str, words: list[Word]) -> None:
    """Append the words of ``text``; a break at its beginning belongs to the last word before it."""
    for number, part in enumerate(_SPELT.split(text)):
        if number % 2:
            words.extend(Word(letter, _letter(letter), " ") for letter in part.split())
        else:
            _append_spoken(part, words)


@cache
def _letter(letter: str) -> tuple[str, ...]:
    return tuple(front_end.lexicon()(letter.lower(), "gruut:letter") or ())


def _append_spoken(text: str, words: list[Word]) -> None:
    # letters apart are a word that is spelt; gruut would take an "A" for the article
    text = _LETTERS.sub(lambda run: run[0].replace(" ", ""), text)
    if _is_figures(text):
        for part in _PARTS.findall(text):
            if part[0].isalpha() or part[0] == "'":
                words.extend(_alone(part))
            elif words:
                _separate(words, BREAKS.get(part, ","))
    else:
        _append_tokens(text, words)


def _is_figures(text: str) -> bool:
    """Tell if figures are a third of a text in which no word needs its neighbours."""
    parts = [part.strip(",.!?") for part in text.split()]
    if len(parts) < MANY or 3 * sum(part in _FIGURES for part in parts) < len(parts):
        return False
    words = {part.lower() for part in parts} - {"a"}
    return all(len(front_end.lexicon().entry(word)) < 2 for word in words)


@lru_cache(maxsize=1 << 14)
def _alone(word: str) -> tuple[Word, ...]:
    """A word as it sounds without neighbours, which costs gruut a millisecond."""
    words: list[Word] = []
    _append_tokens(word, words)
    return tuple(replace(each, separator=" ") for each in words)


def _append_tokens(text: str, words: list[Word]) -> None:
    tokens = _gruut(text)
    written = [token.text.strip() for token in tokens]
    for place, token in enumerate(tokens):
        if token.is_major_break or token.is_minor_break:
            if words:
                mark = "," if token.is_minor_break else "."
                _separate(words, BREAKS.get(token.text.strip()[:1], mark))
            continue
        if any(character.isdigit() for character in token.text):
            words.extend(_words(_spell_digits(token.text)))
            if words and words[-1].separator == ".":
                _separate(words, " ")
            continue
        told = phonemes_by_neighbours(written, place)
        phonemes = told or tuple(p for p in token.phonemes or () if p not in ("|", "‖"))
        if token.text.lower() in UNSTRESSED and not told:
            phonemes = tuple(p.lstrip("ˈˌ") for p in phonemes)
        if phonemes:
            words.append(Word(token.text, phonemes, " "))


def _closed(words: list[Word]) -> list[Word]:
    """The words with a stop behind the last, where it has none."""
    if words and words[-1].separator in " ,":
        _separate(words, ".")
    return words


def _separate(words: list[Word], separator: str) -> None:
    """Put another separator behind the last word."""
    words[-1] = replace(words[-1], separator=separator)


def _gruut(text: str) -> list[Any]:
    """Tokens of all sentences. Where gruut raises, the digits are read one by one instead."""
    if not text.strip():
        return []
    sentences = _front_end()
    for attempt in (text, _spell_digits(text), re.sub(r"[^A-Za-z' ,.?!]+", " ", text)):
        try:
            return [token for sentence in sentences(attempt, lang="en-us") for token in sentence]
        # gruut fails in many ways (decimal overflow, lxml, regular expressions); none may escape
        except Exception:
            continue
    return []


def _front_end() -> Any:
    return front_end.sentences()


def _spell_digits(text: str) -> str:
    """Every digit as a word, and whatever else is no letter, apostrophe or mark as a space."""
    spelt = re.sub(r"[0-9]", lambda digit: f" {_DIGITS[int(digit[0])]} ", text)
    return re.sub(r"[^A-Za-z' ,.?!]+", " ", spelt)


def _unstress_consonant(phoneme: str) -> str:
    bare = phoneme.lstrip("ˈˌ")
    return bare if bare in CONSONANTS else phoneme
