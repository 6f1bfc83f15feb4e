"""English text as word errors are counted on it: Whisper's normaliser."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whisper_normalizer.english import EnglishTextNormalizer


@lru_cache(maxsize=1)
def _normalizer() -> EnglishTextNormalizer:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def normalize(text: str) -> str:
    """Return English text without case, punctuation, spelling variants and written-out numbers.

    Needs the package ``whisper-normalizer``.
    """
    return _normalizer()(text)
