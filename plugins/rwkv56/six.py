"""Time mixing of RWKV-6: the token shift and the decay depend on the position.

d = x' - x        M = tanh((x + d * maa_x) A) B, one row for each of w, k, v, r, g
x_z = x + d * (maa_z + M_z)        g = -exp(time_decay + tanh(x_w W_1) W_2)

(arXiv 2404.05892, equations 11 to 14; ``memory.py`` has the rest.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Place
from wishbone.plugins.rwkv56.memory import BonusMemory, TimeMixConfig
from wishbone.plugins.stack.engines.recipe import Recipe, Row


@dataclass
class RWKV6Config(TimeMixConfig):
    """Sizes; ranks are those of the released models up to 3B."""

    mix_rank: Size = 32
    """Rank of the token shift."""
    decay_rank: Size = 64
    """Rank of the decay."""


class RWKV6(BonusMemory):
    """RWKV-6; the share maa is that of the position before, unlike in RWKV-5."""

    Config = RWKV6Config
    vectors = ("mix", "bonus")

    def __init__(self, config: Any, place: Place) -> None:
        super().__init__(config, place)
        width, rank = place.width, config.mix_rank
        self.mix = nn.Parameter(torch.empty(6, width))
        """Share of the position before in x, w, k, v, r, gate: RWKV-LM's time_maa_x, _w, ..."""
        self.mix_down = nn.Parameter(torch.empty(width, 5 * rank))
        self.mix_up = nn.Parameter(torch.empty(5, rank, width))
        self.decay_down = nn.Parameter(torch.empty(width, config.decay_rank))
        self.decay_up = nn.Parameter(torch.empty(config.decay_rank, width))
        self.reset_parameters()

    def mixed(self, x: Tensor, before: Tensor, kind: torch.dtype) -> tuple[Tensor, ...]:
        """As in ``BonusMemory``."""
        difference, (start, *rows) = before - x, self.mix.to(x.dtype)  # [B, T, D], [D] each
        low = torch.tanh(torch.addcmul(x, difference, start) @ self.mix_down)  # [B, T, 5 R]
        parts = zip(low.chunk(5, -1), self.mix_up, rows, strict=True)
        x_w, x_k, x_v, x_r, x_g = (
            torch.addcmul(x, difference, part @ up + row) for part, up, row in parts
        )  # [B, T, D] each
        low = torch.tanh(x_w @ self.decay_down) @ self.decay_up  # [B, T, D]
        g = -torch.exp(self.time_decay.to(kind) + low.to(kind))  # [B, T, D]
        return x_r, x_k, x_v, x_g, g

    def write_mixed(self, recipe: Recipe, x: Row, before: Row) -> tuple[Row, ...]:
        """As in ``BonusMemory``."""
        start, *rows = self.mix
        low = recipe.product(recipe.mix(x, before, start), self.mix_down.T, careful=True)
        parts = recipe.map("tanh", low).split(*[self.config.mix_rank] * 5)
        x_w, x_k, x_v, x_r, x_g = (
            recipe.mix(x, before, row, recipe.product(part, up.T, careful=True))
            for part, up, row in zip(parts, self.mix_up, rows, strict=True)
        )
        low = recipe.map("tanh", recipe.product(x_w, self.decay_down.T, careful=True))
        low = recipe.product(low, self.decay_up.T, careful=True)
        g = recipe.map("exp", low, plus=self.time_decay, factor=-1.0)
        return x_r, x_k, x_v, x_g, g

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-LM's v6 does."""
        super().reset_parameters()
        n, height, depth = self.shares()
        ramp, flat = n**height, n ** (0.5 * height)  # [D] each
        self.mix.copy_(1 - torch.stack([ramp, ramp, ramp, ramp + 0.3 * depth, flat, flat]))
        for down, up in ((self.mix_down, self.mix_up), (self.decay_down, self.decay_up)):
            nn.init.zeros_(down)
            nn.init.uniform_(up, -0.01, 0.01)
