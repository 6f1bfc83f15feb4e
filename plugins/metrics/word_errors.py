"""Metrics of words and letters: ``wer`` and ``cer``, and the same by a second recogniser.

The families ``WordErrorRate`` and ``CharacterErrorRate`` have one member for each recogniser;
names of what they write end in the recogniser's, but for the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from wishbone.core.contract.extensions.metric import (
    AudioMetric,
    Clip,
    MetricInfo,
    Package,
    Row,
    Value,
)
from wishbone.core.evaluate.measure.transcript import FORMS, compared, normalize
from wishbone.plugins.metrics.recognisers import BASE, TINY, Recogniser, Weights
from wishbone.plugins.metrics.versions import version_of

PACKAGES = (
    Package("faster_whisper", "faster-whisper"),
    Package("whisper_normalizer", "whisper-normalizer"),
    Package("jiwer", "jiwer"),
)
WORD_FIELDS = (
    "heard", "errors", "words", "substitutions", "deletions", "insertions", "missed",
)  # fmt: skip
LETTER_FIELDS = ("letter_errors", "letters")


@dataclass(frozen=True)
class WordErrors:
    """Errors of one transcript against its text, both normalised."""

    errors: int
    """Substitutions + deletions + insertions."""
    words: int
    """Words of the text."""
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    missed: tuple[int, ...] = ()
    """Places of the text's words, from 0, that were changed or left out."""


class Understood(AudioMetric):
    """Base of metrics that read a transcript."""

    weights: ClassVar[Weights] = TINY
    ending: ClassVar[str] = ""
    """Of the names of values."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.recogniser = Recogniser(self.weights)

    def signature(self) -> str:
        """Recogniser, search, normaliser and their versions."""
        normaliser = f"norm:{FORMS}+whisper_en/{version_of('whisper-normalizer')}"
        versions = f"jiwer:{version_of('jiwer')}"
        model = self.recogniser.signature()
        return f"{self.info.key}|{model}|cap:1|{normaliser}|{versions}"


class WordErrorRate(Understood):
    """Word error rate in percent; each item's errors are capped at its words.

    Items weigh as much as they have words, so that the mean is the corpus rate.
    """

    info = MetricInfo(
        key="wer",
        title="word errors",
        unit="%",
        better="lower",
        margin=2.0,
        about="Of 100 words, how many the recogniser missed, changed or added; capped per "
        "sentence.",
        worst=100.0,
        primary=True,
        digits=1,
    )
    packages = (*PACKAGES, *TINY.packages)
    fields = WORD_FIELDS
    missed_words = "missed"

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Transcript (``heard``), ``errors``, their kinds, ``words`` of the text and ``missed``."""
        transcript = self.recogniser.transcript(clip)
        return self._values(transcript, word_errors(clip.text, transcript))

    @classmethod
    def failed(cls, text: str) -> Mapping[str, Value]:
        """All words missed."""
        words = len(normalize(text).split())
        return cls._values(
            "", WordErrors(words, words, deletions=words, missed=tuple(range(words)))
        )

    @classmethod
    def _values(cls, transcript: str, result: WordErrors) -> dict[str, Value]:
        values = (
            transcript, result.errors, result.words, result.substitutions, result.deletions,
            result.insertions, " ".join(map(str, result.missed)),
        )  # fmt: skip
        return dict(zip(cls.fields, values, strict=True))

    @classmethod
    def value(cls, row: Row) -> float | None:
        """Errors of 100 words; None for a text without words."""
        errors, words = row.get(f"errors{cls.ending}"), row.get(f"words{cls.ending}")
        if errors is None or not words:
            return None
        return 100 * min(errors, words) / words

    @classmethod
    def weight(cls, row: Row) -> float:
        """The text's words."""
        return row.get(f"words{cls.ending}") or 1.0


class WordErrorRateBase(WordErrorRate):
    """The same by Whisper base."""

    weights = BASE
    ending = "_base"
    info = MetricInfo(
        key="wer_base",
        title="word errors, 2nd recogniser",
        unit="%",
        better="lower",
        margin=2.0,
        about="Word errors by another recogniser: what both find is rather the speech's fault.",
        worst=100.0,
        digits=1,
    )
    packages = (*PACKAGES, *BASE.packages)
    fields = tuple(f"{name}_base" for name in WORD_FIELDS)
    missed_words = "missed_base"


class CharacterErrorRate(Understood):
    """Character error rate in percent, of the same transcript, capped and weighed alike."""

    info = MetricInfo(
        key="cer",
        title="letter errors",
        unit="%",
        better="lower",
        margin=1.0,
        about="Of 100 letters and spaces, how many differ in the transcript; a word that is almost "
        "right counts less than in word errors.",
        worst=100.0,
        digits=1,
    )
    packages = (*PACKAGES, *TINY.packages)
    fields = LETTER_FIELDS

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Errors and the text's letters, spaces included."""
        errors, letters = letter_errors(clip.text, self.recogniser.transcript(clip))
        return dict(zip(self.fields, (errors, letters), strict=True))

    @classmethod
    def failed(cls, text: str) -> Mapping[str, Value]:
        """All letters missed."""
        letters = len(normalize(text))
        return dict(zip(cls.fields, (letters, letters), strict=True))

    @classmethod
    def value(cls, row: Row) -> float | None:
        """Errors of 100 letters; None for a text without letters."""
        errors, letters = (row.get(name) for name in cls.fields)
        return 100 * min(errors, letters) / letters if letters else None

    @classmethod
    def weight(cls, row: Row) -> float:
        """The text's letters."""
        return row.get(cls.fields[1]) or 1.0


class CharacterErrorRateBase(CharacterErrorRate):
    """The same by Whisper base."""

    weights = BASE
    ending = "_base"
    info = MetricInfo(
        key="cer_base",
        title="letter errors, 2nd recogniser",
        unit="%",
        better="lower",
        margin=1.0,
        about="Letter errors by the second recogniser.",
        worst=100.0,
        digits=1,
    )
    packages = (*PACKAGES, *BASE.packages)
    fields = tuple(f"{name}_base" for name in LETTER_FIELDS)


def word_errors(text: str, transcript: str) -> WordErrors:
    """Errors of ``transcript`` against ``text`` after normalising both."""
    reference, hypothesis = (" ".join(words) for words in compared(text, transcript))
    words = len(reference.split())
    if not words:
        added = len(hypothesis.split())
        return WordErrors(added, 0, insertions=added)
    import jiwer

    counts = jiwer.process_words(reference, hypothesis)
    missed = [
        place
        for chunk in counts.alignments[0]
        if chunk.type in ("substitute", "delete")
        for place in range(chunk.ref_start_idx, chunk.ref_end_idx)
    ]
    return WordErrors(
        counts.substitutions + counts.deletions + counts.insertions,
        words,
        counts.substitutions,
        counts.deletions,
        counts.insertions,
        tuple(missed),
    )


def letter_errors(text: str, transcript: str) -> tuple[int, int]:
    """Errors in letters and spaces after normalising both, and the text's letters."""
    reference, hypothesis = (" ".join(words) for words in compared(text, transcript))
    if not reference:
        return len(hypothesis), 0
    import jiwer

    counts = jiwer.process_characters(reference, hypothesis)
    return counts.substitutions + counts.deletions + counts.insertions, len(reference)
