"""Time mixing of RWKV-5.2: a decay that differs by channel and not by position.

x_z = m_z x + (1 - m_z) x'        z in k, v, r, g        g = -exp(time_decay)

(arXiv 2404.05892, equations 3 to 6; ``memory.py`` has the rest.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.stack.mixer import Place
from wishbone.plugins.rwkv56.memory import BonusMemory
from wishbone.plugins.stack.engines.recipe import Recipe, Row


class RWKV5(BonusMemory):
    """RWKV-5.2; the share m is that of the position itself, unlike in RWKV-6."""

    vectors = ("mix", "bonus")

    def __init__(self, config: Any, place: Place) -> None:
        super().__init__(config, place)
        self.mix = nn.Parameter(torch.empty(4, place.width))
        """Share of the position itself in k, v, r, gate: RWKV-LM's time_mix_k, _v, _r, _g."""
        self.reset_parameters()

    def mixed(self, x: Tensor, before: Tensor, kind: torch.dtype) -> tuple[Tensor, ...]:
        """As in ``BonusMemory``."""
        x_k, x_v, x_r, x_g = (torch.lerp(before, x, mix.to(x.dtype)) for mix in self.mix)
        g = -self.time_decay.to(kind).exp().expand(x.shape)  # [B, T, D]
        return x_r, x_k, x_v, x_g, g

    def write_mixed(self, recipe: Recipe, x: Row, before: Row) -> tuple[Row, ...]:
        """As in ``BonusMemory``."""
        x_k, x_v, x_r, x_g = (recipe.mix(before, x, mix) for mix in self.mix)
        return x_r, x_k, x_v, x_g, recipe.constant(-self.time_decay.exp())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-LM's v5 does."""
        super().reset_parameters()
        n, height, depth = self.shares()
        ramp, flat = n**height, n ** (0.5 * height)  # [D] each
        self.mix.copy_(torch.stack([ramp, ramp + 0.3 * depth, flat, flat]))
