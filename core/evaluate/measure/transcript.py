"""English text as word errors are counted on it: one form of every mark, one spelling of what
sounds alike, then Whisper's normaliser.

A word processor and a recogniser write the same mark in different ways. Whisper's normaliser knows
the plain apostrophe alone: without the first step "don’t" and "don't" are two errors.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisper_normalizer.english import EnglishTextNormalizer

FORMS = "marks-1+spellings-1"
"""Names of the first steps in signatures; a number grows when its step changes."""
_MARKS = {
    "'": "‘’‚‛′‵ʹʻʼʽˈ`´＇",
    '"': "“”„‟″‶«»",
    "-": "‐‑‒–—―−﹣－",
    # soft hyphen, zero-width space, non-joiner and joiner, word joiner, byte order mark
    "": "\u00ad\u200b\u200c\u200d\u2060\ufeff",
}
_TABLE = {ord(form): plain for plain, forms in _MARKS.items() for form in forms}

SAME_WORDS = {
    "ok": "okay", "o.k.": "okay", "alright": "all right", "alot": "a lot", "o'clock": "",
    "oclock": "", "etcetera": "et cetera", "etc.": "et cetera", "vs.": "versus",
    "thru": "through", "tonite": "tonight", "doughnut": "donut", "doughnuts": "donuts",
    "whiskey": "whisky",
}  # fmt: skip
"""Words that sound alike and mean the same -> one spelling. "Five o'clock" is 5:00."""

UNITS = {
    "km": "kilometer", "kg": "kilogram", "cm": "centimeter", "mm": "millimeter", "mg": "milligram",
    "ml": "milliliter", "mph": "mile per hour", "ft": "foot", "lbs": "pound", "lb": "pound",
    "oz": "ounce", "GB": "gigabyte", "MB": "megabyte", "Hz": "hertz", "kHz": "kilohertz",
    "GHz": "gigahertz",
}  # fmt: skip
PLURALS = {"foot": "feet", "mile per hour": "miles per hour"}

_WORD = re.compile(r"(?<![\w'])(?:" + "|".join(
    re.escape(word) for word in sorted(SAME_WORDS, key=len, reverse=True)) + r")(?![\w'])",
    re.IGNORECASE)  # fmt: skip
_INITIALS = re.compile(r"(?<![\w.'])[A-Za-z](?:\.[A-Za-z])+\b\.?")
_ROUND_HOUR = re.compile(r"(?<![\d:.])(0?\d|1[0-2]):00(?![\d:])")
_TIME = re.compile(r"(?<![\d:.])(\d{1,2}):([0-5]\d)(?![\d:])")
_FIRST = re.compile(r"(?<!\w)(World War|Type|Part|Chapter|Act|Phase|Stage|Volume) I(?![\w'])")
_ROMAN = re.compile(r"(?<![\w'.])(?=[IVX]{2})X{0,3}(?:IX|IV|V?I{0,3})(?![\w'])(?!\.\w)")
_UNIT = re.compile(rf"(?<![\w.])(\d+(?:[.,]\d+)*) ?({'|'.join(UNITS)})(?!\w)")
LONGEST_RUN = 5
"""Words that one word may be divided into, or be made of."""


@lru_cache(maxsize=1)
def _normalizer() -> EnglishTextNormalizer:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def plain_marks(text: str) -> str:
    """Return text with one form of every apostrophe, quote, dash, space and ligature.

    Dots that mark a pause become a space, because the normaliser would keep one of them as a word.
    """
    text = unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
    return re.sub(r"\.{2,}|--+", " ", text)


def normalize(text: str) -> str:
    """Return English text without case, punctuation, spelling variants and written-out numbers.

    Needs the package ``whisper-normalizer``.
    """
    return _normalizer()(one_spelling(plain_marks(text)))


def compared(text: str, transcript: str) -> tuple[list[str], list[str]]:
    """Normalised words of a text and of its transcript, divided alike: "sea shells" is one word
    where the text has "seashells".
    """
    expected = normalize(text).split()
    return expected, divided_as(expected, normalize(transcript).split())


def one_spelling(text: str) -> str:
    """Text with one spelling of times, initials, Roman numerals, units and a few words."""
    text = _INITIALS.sub(lambda run: re.sub(r"\.", "", run[0]), _WORD.sub(_same, text))
    text = _TIME.sub(r"\1\2", _ROUND_HOUR.sub(r"\1", text))
    text = _ROMAN.sub(lambda run: str(_value(run[0])), _FIRST.sub(r"\1 one", text))
    return _UNIT.sub(_unit, text)


def divided_as(reference: Sequence[str], heard: Sequence[str]) -> list[str]:
    """The heard words with blanks where ``reference`` has them, if the letters are the same."""
    singles = set(reference)
    parted = {
        "".join(run): run for run in _runs(reference) if "".join(run) not in singles
    }  # fmt: skip
    words: list[str] = []
    for word in heard:
        words.extend(parted.get(word, (word,)) if word not in singles else (word,))
    together = {"".join(run) for run in _runs(words)} & singles
    runs = set(_runs(reference))
    place, joined = 0, []
    while place < len(words):
        for length in range(LONGEST_RUN, 1, -1):
            run = tuple(words[place : place + length])
            if len(run) == length and "".join(run) in together and run not in runs:
                joined.append("".join(run))
                place += length
                break
        else:
            joined.append(words[place])
            place += 1
    return joined


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [
        tuple(words[place : place + length])
        for length in range(2, LONGEST_RUN + 1)
        for place in range(len(words) - length + 1)
    ]


def _same(match: re.Match[str]) -> str:
    return SAME_WORDS[match[0].lower()]


def _unit(match: re.Match[str]) -> str:
    unit = UNITS[match[2]]
    many = unit if unit.endswith("hertz") else PLURALS.get(unit, f"{unit}s")
    return f"{match[1]} {unit if match[1] == '1' else many}"


def _value(numeral: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10}[letter] for letter in numeral]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return sum(-value if value < after else value for value, after in pairs)
