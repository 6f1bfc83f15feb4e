"""The speed at which memory is read and copied: the limit of every decoding step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wishbone.core.contract.extensions.contender import Contender, Job, Times
from wishbone.core.contract.part import Size
from wishbone.core.evaluate.measure.speed import clocked


@dataclass
class MemoryConfig:
    """The block that is read and copied."""

    megabytes: Size = 512
    """Size of the block in 2^20 bytes; well beyond the last cache."""


class Memory(Contender):
    """Cases ``read`` (every byte once) and ``copy`` (every byte read once and written once)."""

    Config = MemoryConfig

    @classmethod
    def small_config(cls) -> MemoryConfig:
        """Return one megabyte, to see that it runs."""
        return MemoryConfig(megabytes=1)

    @classmethod
    def small_job(cls) -> tuple[Job, str]:
        """Return the case of reading that megabyte."""
        return Job({}), "read"

    def load(self) -> dict[str, Any]:
        """Fill the block, and choose the fastest of three ways to read it."""
        count = self.config.megabytes * 2**20 // 4
        self.source = torch.ones(count, device=self.job.device)
        self.target = torch.empty_like(self.source)
        ways: dict[str, Callable[[], Any]] = {
            "sum": self.source.sum,
            "dot": lambda: torch.dot(self.source, self.source),
            "max of integers": self.source.view(torch.int32).max,
        }
        device = self.job.device
        seconds = {name: min(clocked(way, device) for _ in range(3)) for name, way in ways.items()}
        best = min(seconds, key=seconds.__getitem__)
        self.read = ways[best]
        size = 4 * count
        return {"engine": best, "case_bytes": {"read": size, "copy": 2 * size}}

    def run(self, case: str, count: int) -> Times:
        """Time ``count`` passes over the block."""
        way = self.read if case == "read" else lambda: self.target.copy_(self.source)
        return {"seconds": [clocked(way, self.job.device) for _ in range(count)]}
