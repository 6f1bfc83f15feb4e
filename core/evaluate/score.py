"""One clip to its numbers. A failed clip gets the worst of every metric and is never left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from wishbone.core.evaluate.clips import Clip, failure, resample
from wishbone.core.evaluate.quality import DNSMOS, VoiceEncoder
from wishbone.core.evaluate.recognizer import Recognizer, normalize, word_errors

Item = TypeVar("Item")
Result = TypeVar("Result")

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


class Panel:
    """Several scorers that judge clips side by side, each on one thread.

    One network on several threads waits for its slowest thread at every layer, which on a busy
    machine is most of the time; whole clips side by side do not wait for each other.
    """

    def __init__(self, size: int = 1, reference: np.ndarray | None = None) -> None:
        self.scorers = [Scorer(1, reference) for _ in range(max(1, size))]

    @property
    def first(self) -> Scorer:
        """One of them, for what is done once."""
        return self.scorers[0]

    def hear(self, reference: np.ndarray | None) -> None:
        """Set the voice that all of them compare with."""
        for scorer in self.scorers:
            scorer.reference = reference

    def map(
        self, judge: Callable[[Scorer, Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """``judge(scorer, item)`` for every item, in order, as they are done."""
        free: SimpleQueue[Scorer] = SimpleQueue()
        for scorer in self.scorers:
            free.put(scorer)

        def work(item: Item) -> Result:
            scorer = free.get()
            try:
                return judge(scorer, item)
            finally:
                free.put(scorer)

        with ThreadPoolExecutor(len(self.scorers)) as pool:
            waiting = [pool.submit(work, item) for item in items]
            try:
                for future in waiting:
                    yield future.result()
            finally:
                for future in waiting:
                    future.cancel()


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
