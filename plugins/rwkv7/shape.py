"""The numbers that give an RWKV-7 its form, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from wishbone.core.contract.errors import ConfigError


@dataclass(frozen=True)
class Shape:
    """A ``RWKV7.Config`` with every zero replaced by the number it stands for."""

    width: int
    """C of RWKV-LM, D here."""
    layers: int
    head_size: int
    ffn_width: int
    decay_rank: int
    rate_rank: int
    value_rank: int
    gate_rank: int
    group_norm_eps: float

    @property
    def heads(self) -> int:
        """H."""
        return self.width // self.head_size

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Fill in RWKV-LM's rules. Raises ``ConfigError`` when heads do not divide the width."""
        width, size = config.width, config.head_size
        if width < 1 or size < 1 or width % size:
            raise ConfigError(
                f"Width {width} is not a multiple of head size {size}.",
                "The backbone slot of the system configuration.",
                "Change width or head_size so that the heads fill the width.",
            )
        return cls(
            width=width,
            layers=config.layers,
            head_size=size,
            ffn_width=config.ffn_width or 4 * width,
            decay_rank=config.decay_rank or rank(2.5, width),
            rate_rank=config.rate_rank or rank(2.5, width),
            value_rank=config.value_rank or rank(1.7, width),
            gate_rank=config.gate_rank or rank(5.0, width),
            group_norm_eps=config.group_norm_eps,
        )

    def parameters(self) -> int:
        """How many numbers a backbone of this shape learns."""
        width = self.width
        channel = 5 * width + 2 * width * self.ffn_width
        return 4 * width + self.time_parameters() + self.layers * channel

    def time_parameters(self) -> int:
        """How many of them time mixing has, all layers together."""
        width = self.width
        low_rank = 2 * width * (self.decay_rank + self.rate_rank + self.gate_rank)
        value = width + 2 * width * self.value_rank
        each = 13 * width + 4 * width**2 + low_rank
        return self.layers * each + (self.layers - 1) * value


def rank(factor: float, width: int) -> int:
    """RWKV-LM's size of a low-rank product: a multiple of 32 near ``factor * sqrt(width)``."""
    return max(32, 32 * round(factor * math.sqrt(width) / 32))
