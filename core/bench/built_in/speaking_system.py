"""A whole system as a contender: text in, samples out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import Module

from wishbone.core.bench.built_in.models import accelerated_model
from wishbone.core.bench.built_in.speaking import SpeakingContender, receive
from wishbone.core.bench.contenders import resident_bytes
from wishbone.core.config.compose import compose, weights_folder
from wishbone.core.contract.extensions.contender import Times
from wishbone.core.contract.part import Seed
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
    seed: Seed = 1
    """Of all sentences; the same seed gives the same speech."""
    licence: str = ""
    """Of its weights, for the table."""
    weights: str = "float32"
    """Of the language model while it steps: "float32", "bfloat16" or "int8"."""
    crowds: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
    )
    """Numbers of streams at once, tried one after the other until a stream falls silent."""


class SpeakingSystem(SpeakingContender):
    """Cases ``say N``, ``sentence I``, and ``streams`` (how many keep up at once)."""

    Config = SystemConfig

    def load(self) -> dict[str, Any]:
        """Build it and read its weights."""
        before = resident_bytes()
        self.system = load(self.config.system, self.config.overrides, self.job.device)
        self.rate = self.system.decoder.sample_rate
        facts = accelerated_model(self.system.model, self.config.engine, self.config.weights)
        return {
            **facts,
            "loaded_bytes": resident_bytes() - before,
            "parameters": sum(map(count_parameters, (self.system.model, self.system.decoder))),
            "disk_bytes": _weights_bytes(compose(self.config.system, self.config.overrides)),
            "licence": self.config.licence,
        }

    def chunks(self, text: str) -> Iterator[np.ndarray]:
        """Speak a text as it becomes final."""
        yield from self.system.stream(text, seed=self.config.seed)

    def run(self, case: str, count: int) -> Times:
        """Measure as every speaking contender does, or count ``streams``."""
        if case == "streams":
            return {"streams": [float(self._most()) for _ in range(count)]}
        return super().run(case, count)

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
            late[index] = receive(chunks, rate).late

        threads = [threading.Thread(target=listen, args=(i,)) for i in range(crowd)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return max(late) <= LATE


def count_parameters(part: Any) -> int:
    """Numbers that a part learned; 0 for one that learned none."""
    return sum(p.numel() for p in part.parameters()) if isinstance(part, Module) else 0


def _weights_bytes(config: Any) -> int:
    """Bytes of all files of weights that a system's configuration names."""
    folders: dict[Path, None] = {}

    def visit(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            if key == "weights" and isinstance(value, str) and value:
                folders[weights_folder(value)] = None
            visit(value)

    visit(config)
    files = {file.resolve() for folder in folders for file in folder.rglob("*.safetensors")}
    return sum(file.stat().st_size for file in files)
