"""A whole system as a contender: text in, samples out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from time import perf_counter
from typing import Any

from wishbone.core.bench.contenders import peak_bytes, resident_bytes
from wishbone.core.bench.models import accelerated_model
from wishbone.core.contract.contender import Contender, Times
from wishbone.core.speak.server import Server
from wishbone.core.speak.speaker import load

LATE = 0.02
"""Seconds a chunk may come after the one before has been played; players buffer more."""


@dataclass
class SystemConfig:
    """Which system, and how its language model steps."""

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
    """How many streams at once are tried, one after the other, until one of them falls silent."""


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
        """Speak once; how much memory the process held at most by then."""
        if case.startswith("say"):
            self.run(case, 1)
        return {"peak_bytes": peak_bytes()}

    def run(self, case: str, count: int) -> Times:
        """``rtf`` (seconds of work per second of sound) and ``first_audio``, or ``streams``."""
        kind, _, number = case.partition(" ")
        if kind == "streams":
            return {"streams": [float(self._most()) for _ in range(count)]}
        text = " ".join(islice(cycle(self.job.model["sentences"]), int(number)))
        spoken = [_listen(self.system.stream(text)) for _ in range(count)]
        rate = self.system.decoder.sample_rate
        return {
            "rtf": [seconds * rate / samples for seconds, _, samples, _ in spoken],
            "first_audio": [first for _, first, _, _ in spoken],
        }

    def _most(self) -> int:
        """The largest crowd of which every stream keeps up with its listener."""
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
            late[index] = _listen(chunks, rate)[3]

        threads = [threading.Thread(target=listen, args=(i,)) for i in range(crowd)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return max(late) <= LATE


def _listen(chunks: Iterator[Any], rate: int = 1) -> tuple[float, float, int, float]:
    """Seconds until all is there, until the first sound, samples, and the worst lateness.

    A player begins with the first chunk; a chunk is late by what it comes after the end of all
    that came before it.
    """
    begin = perf_counter()
    first, samples, late = 0.0, 0, 0.0
    for chunk in chunks:
        if not len(chunk):
            continue
        at = perf_counter() - begin
        if not samples:
            first = at
        else:
            late = max(late, at - first - samples / rate)
        samples += len(chunk)
    return perf_counter() - begin, first, samples, late
