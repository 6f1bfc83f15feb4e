"""One clip to its numbers. A failed clip gets the worst of every metric and is never left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wishbone.core.evaluate.clips import Clip, failure, resample
from wishbone.core.evaluate.quality import DNSMOS, VoiceEncoder
from wishbone.core.evaluate.recognizer import Recognizer, normalize, word_errors

RATE = 16_000
"""Samples per second at which clips are judged."""


@dataclass
class Scorer:
    """Words, predicted quality and, where a reference voice is given, likeness to it."""

    threads: int = 1
    """CPU threads for each network."""
    reference: np.ndarray | None = None
    """[256] embedding of the voice that should be heard."""
    recognizer: Recognizer = field(init=False)
    dnsmos: DNSMOS = field(init=False)
    voices: VoiceEncoder = field(init=False)

    def __post_init__(self) -> None:
        self.recognizer = Recognizer(self.threads)
        self.dnsmos = DNSMOS(self.threads)
        self.voices = VoiceEncoder()

    def score(self, clip: Clip, known: str = "") -> dict[str, Any]:
        """Numbers of one clip; ``known`` is a failure seen while it was made."""
        failed = known or failure(clip.audio, clip.rate, clip.text)
        row: dict[str, Any] = {"key": clip.key, "text": clip.text, "seconds": clip.seconds}
        if failed:
            return row | self.worst(clip.text) | {"failure": failed}
        audio = resample(clip.audio, clip.rate, RATE)
        heard = self.recognizer.transcribe(audio)
        counted = word_errors(clip.text, heard)
        row |= {
            "failure": "",
            "heard": heard,
            "errors": counted.errors,
            "words": counted.words,
            "dnsmos": self.dnsmos.score(audio),
        }
        if self.reference is not None:
            row["similarity"] = self.voices.similarity(audio, self.reference)
        return row

    def worst(self, text: str) -> dict[str, Any]:
        """What a clip gets that cannot be listened to."""
        words = len(normalize(text).split())
        row: dict[str, Any] = {"heard": "", "errors": words, "words": words, "dnsmos": 1.0}
        if self.reference is not None:
            row["similarity"] = 0.0
        return row

    def embed(self, clips: Sequence[Clip]) -> np.ndarray:
        """The voice of several clips: their embeddings' mean, as a unit vector [256]."""
        vectors = [self.voices.embed(resample(clip.audio, clip.rate, RATE)) for clip in clips]
        mean = np.mean(vectors, axis=0)
        return mean / np.linalg.norm(mean)

    @property
    def signatures(self) -> dict[str, str]:
        """Metric -> everything that decides it, in one line."""
        lines = {"wer": self.recognizer.signature, "dnsmos": self.dnsmos.signature}
        if self.reference is not None:
            lines["similarity"] = self.voices.signature
        return lines


def score_all(
    scorer: Scorer, clips: Sequence[Clip], tick: Callable[[int, int], None] = lambda done, of: None
) -> list[dict[str, Any]]:
    """Score clips one after the other; ``tick(done, of)`` is told the progress."""
    rows = []
    for number, clip in enumerate(clips, 1):
        rows.append(scorer.score(clip))
        tick(number, len(clips))
    return rows


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Numbers of a set of scored clips.

    ``wer`` is the corpus word error rate in percent: all errors over all words, each clip's
    errors capped at its words; ``wer_raw`` has no cap; ``wer_mean`` is the clips' mean capped rate.
    """
    words = sum(row["words"] for row in rows)
    capped = [min(row["errors"], row["words"]) for row in rows]
    rates = [c / row["words"] for c, row in zip(capped, rows, strict=True) if row["words"]]
    result = {
        "clips": float(len(rows)),
        "failures": float(sum(bool(row["failure"]) for row in rows)),
        "seconds": float(sum(row["seconds"] for row in rows)),
        "wer": 100 * sum(capped) / max(1, words),
        "wer_raw": 100 * sum(row["errors"] for row in rows) / max(1, words),
        "wer_mean": 100 * float(np.mean(rates)) if rates else 0.0,
        "dnsmos": float(np.mean([row["dnsmos"] for row in rows])),
    }
    if rows and all("similarity" in row for row in rows):
        result["similarity"] = float(np.mean([row["similarity"] for row in rows]))
    return result
