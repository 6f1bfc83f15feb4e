"""One adapter as values: its method, its rank and its tensors by layer, whatever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wishbone.core.contract.errors import CheckpointError


@dataclass
class Adapter:
    """The trained tensors of one adapter, by the names of the layers they belong to."""

    method: str
    """lora, dora or miss: the kind of its tensors."""
    rank: int
    scale: float = 1.0
    """Factor of B A, alpha / rank; MiSS has none."""
    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Layer -> part, as ``layers.PARTS`` names them -> tensor."""
    base: str = ""
    """Mark of the base it was trained on; empty where nobody wrote it down."""

    @property
    def numbers(self) -> int:
        """Count the numbers in all of its tensors."""
        return sum(t.numel() for parts in self.layers.values() for t in parts.values())

    def check_start(self, expected: Mapping[str, Any], where: str, do: str) -> None:
        """Raise ``CheckpointError`` unless a training of ``expected`` can start from this.

        ``expected`` holds some of ``method``, ``rank``, ``alpha / rank`` and ``layers``.
        """
        values = {
            "method": self.method,
            "rank": self.rank,
            "alpha / rank": round(self.scale, 9),
            "layers": sorted(self.layers),
        }
        wrong = [
            f"{name} {values[name]}, this configuration {value}"
            for name, value in expected.items()
            if values[name] != value
        ]
        if wrong:
            raise CheckpointError(
                f"The adapter to start from has {'; '.join(wrong)}.",
                where,
                do,
            )
