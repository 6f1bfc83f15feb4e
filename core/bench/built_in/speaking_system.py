"""A whole system as a contender: text in, samples out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import numpy as np

from wishbone.core.bench.built_in.models import accelerated_model
from wishbone.core.bench.contenders import peak_bytes, resident_bytes
from wishbone.core.contract.extensions.contender import Contender, Times
from wishbone.core.speak.server import Server
from wishbone.core.speak.speaker import load

LATE = 0.02
"""Seconds a chunk may come after the one before has been played; players buffer more."""


@dataclass
class SystemConfig:
    """The system, and the way its language model steps."""

    system: str = "quickstart-rwkv7"
    """Name or YAML file of a system."""
    overrides: list[str] = field(default_factory=list)
    """Changes to it, as ``key=value``."""
    engine: str = "best"
    """As of the contender ``wishbone``."""
    weights: str = "float32"
    """Of the language model while it steps: "float32", "bfloat16" or "int8"."""
    crowds: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
    )
    """Numbers of streams at once, tried one after the other until a stream falls silent."""


class SpeakingSystem(Contender):
    """Cases ``say N`` (N sentences) and ``streams`` (how many keep up at once)."""

    Config = SystemConfig

    def load(self) -> dict[str, Any]:
        """Build it and read its weights."""
        before = resident_bytes()
        self.system = load(self.config.system, self.config.overrides, self.job.device)
        facts = accelerated_model(self.system.model, self.config.engine, self.config.weights)
        return {**facts, "loaded_bytes": resident_bytes() - before}

    def prepare(self, case: str) -> dict[str, Any]:
        """Speak once -> the most memory that the process held by then."""
        if case.startswith("say"):
            self.run(case, 1)
        return {"peak_bytes": peak_bytes()}

    def run(self, case: str, count: int) -> Times:
        """Measure ``rtf`` (seconds of work per second of sound) and ``first_audio``, or streams."""
        kind, _, number = case.partition(" ")
        if kind == "streams":
            return {"streams": [float(self._most()) for _ in range(count)]}
        text = " ".join(islice(cycle(self.job.model["sentences"]), int(number)))
        rate = self.system.decoder.sample_rate
        deliveries = [_receive(self.system.stream(text), rate) for _ in range(count)]
        return {
            "rtf": [delivery.seconds * rate / delivery.samples for delivery in deliveries],
            "first_audio": [delivery.first for delivery in deliveries],
        }

    def _most(self) -> int:
        """Return the largest crowd of which every stream keeps up with its listener."""
        most = 0
        for crowd in self.config.crowds:
            if not self._keeps_up(crowd):
                break
            most = crowd
        return most

    def _keeps_up(self, crowd: int) -> bool:
        server = Server(self.system, crowd)
        texts = list(islice(cycle(self.job.model["sentences"]), crowd))
        late = [float("inf")] * crowd
        rate = self.system.decoder.sample_rate

        def listen(index: int) -> None:
            chunks = server.stream(texts[index], seed=index)
            late[index] = _receive(chunks, rate).late

        threads = [threading.Thread(target=listen, args=(i,)) for i in range(crowd)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return max(late) <= LATE


@dataclass(frozen=True)
class _Delivery:
    """The audio of one stream, as a player receives it."""

    seconds: float
    """Until all of it arrived."""
    first: float
    """Seconds until the first samples."""
    samples: int
    late: float
    """Seconds of the worst chunk after the end of all that came before it."""


def _receive(chunks: Iterator[np.ndarray], rate: int) -> _Delivery:
    """Receive a stream as a player does, who begins with the first chunk."""
    begin = perf_counter()
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
    return _Delivery(perf_counter() - begin, first, samples, late)
