"""English text as word errors are counted on it: one form of every mark, then Whisper's normaliser.

A word processor and a recogniser write the same mark in different ways. Whisper's normaliser knows
the plain apostrophe alone: without the first step "don’t" and "don't" are two errors.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisper_normalizer.english import EnglishTextNormalizer

FORMS = "marks-1"
"""Name of the first step in signatures; its number grows when the step changes."""
_MARKS = {
    "'": "‘’‚‛′‵ʹʻʼʽˈ`´＇",
    '"': "“”„‟″‶«»",
    "-": "‐‑‒–—―−﹣－",
    # soft hyphen, zero-width space, non-joiner and joiner, word joiner, byte order mark
    "": "\u00ad\u200b\u200c\u200d\u2060\ufeff",
}
_TABLE = {ord(form): plain for plain, forms in _MARKS.items() for form in forms}


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
    return _normalizer()(plain_marks(text))
