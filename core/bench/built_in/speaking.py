"""A contender that speaks: sentences in, samples out, and what they cost.

``SpeakingSystem`` does it with a system of Wishbone, plug-ins with synthesisers of other projects.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from wishbone.core.bench.contenders import peak_bytes
from wishbone.core.contract.atomic import replacing
from wishbone.core.contract.extensions.contender import Contender, Job, Times

WARM_UP = "warm-up"
"""A case that speaks a sentence of no count, for what is built or read on first use."""
SENTENCE = "Come in, and close the door behind you."
"""What is said then."""


@dataclass(frozen=True)
class Delivery:
    """The audio of one request, as a player receives it."""

    seconds: float
    """Until all of it arrived."""
    processor: float
    """Seconds of processor time, of programs that were started for it, too."""
    first: float
    """Seconds until the first samples."""
    late: float
    """Seconds of the worst chunk after the end of all that came before it."""
    audio: np.ndarray
    """[S] float32."""

    @property
    def samples(self) -> int:
        """Length of the audio."""
        return len(self.audio)


class SpeakingContender(Contender):
    """Cases ``say N`` (N sentences as one text), ``sentence I`` (one of them, from 0), ``WARM_UP``.

    ``Job.model`` holds ``sentences``. Where it holds ``folder``, too, the case ``sentence I`` also
    writes what was spoken into that folder, as ``00I.flac``.
    """

    rate: int
    """Samples per second; set by ``load``."""

    @abstractmethod
    def chunks(self, text: str) -> Iterator[np.ndarray]:
        """Speak a text: chunks of samples [S] float32, in the order in which they are heard."""

    @classmethod
    def small_job(cls) -> tuple[Job, str] | None:
        """Two words."""
        return Job({"sentences": ["Come in."]}), "sentence 0"

    def prepare(self, case: str) -> dict[str, Any]:
        """Speak once -> the most memory that the process held by then."""
        if case.startswith(("say", "sentence")):
            self.run(case, 1)
        return {"peak_bytes": self.peak_bytes()}

    def peak_bytes(self) -> int:
        """Most memory of the process so far."""
        return peak_bytes()

    def run(self, case: str, count: int) -> Times:
        """Measure, for each second of sound, the clock and the work; and the first samples.

        ``rtf`` and ``work`` are seconds for one of sound, by the clock and of processor time;
        ``first_audio`` is in seconds.
        """
        kind, _, number = case.partition(" ")
        sentences = self.job.model["sentences"]
        if kind == WARM_UP:
            text = SENTENCE
        elif kind == "sentence":
            text = sentences[int(number)]
        else:
            text = " ".join(islice(cycle(sentences), int(number)))
        deliveries = [receive(self.chunks(text), self.rate) for _ in range(count)]
        if kind == "sentence" and self.job.model.get("folder"):
            self._write(
                Path(self.job.model["folder"]) / f"{int(number):03d}.flac", deliveries[0].audio
            )
        audible = [delivery for delivery in deliveries if delivery.samples]
        return {
            "rtf": [one.seconds * self.rate / one.samples for one in audible],
            "work": [one.processor * self.rate / one.samples for one in audible],
            "first_audio": [one.first for one in audible],
        }

    def _write(self, path: Path, audio: np.ndarray) -> None:
        import soundfile

        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            soundfile.write(temporary, audio, self.rate, format="FLAC")


def receive(chunks: Iterator[np.ndarray], rate: int) -> Delivery:
    """Receive a stream as a player does, who begins with the first chunk."""
    begin, worked = perf_counter(), sum(os.times()[:4])
    received: list[np.ndarray] = []
    first, samples, late = 0.0, 0, 0.0
    for chunk in chunks:
        if not len(chunk):
            continue
        now = perf_counter() - begin
        if not samples:
            first = now
        else:
            late = max(late, now - first - samples / rate)
        samples += len(chunk)
        received.append(np.asarray(chunk, np.float32))
    return Delivery(
        seconds=perf_counter() - begin,
        processor=sum(os.times()[:4]) - worked,
        first=first,
        late=late,
        audio=np.concatenate([np.zeros(0, np.float32), *received]),
    )
