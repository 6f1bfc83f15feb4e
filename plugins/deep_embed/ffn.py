"""DeepEmbed (RWKV-7a and RWKV-8): channel mixing, scaled by an embedding of what is read.

    k = x + (x' - x) m                    x' the position before
    E = table[id]                         of every id, [R, R] inside or [D] at the output
    inner:   y = W_v (relu(W_k k)^2 * ((x S_1) E S_2 + s_0))     RWKV-7a, rwkv_v7a_demo.py
    output:  y = (W_v relu(W_k k)^2) * E                         RWKV-8, the first one published

An id is hashed with its table and codebook into ``rows`` of one table: a half of a block does not
know the tables of the layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import OneOf, OptionalSize, Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs

OF_TABLE, OF_CODEBOOK = 40_503, 50_021
"""Odd numbers by which tables and codebooks are moved apart."""


@dataclass
class DeepEmbedConfig:
    """Sizes."""

    width: OptionalSize = 0
    """Inner width F; 0 means the stack's ``ffn_width``, or four times the width without one."""
    at: Annotated[str, OneOf("inner", "output")] = "inner"
    """What an id scales: the inner numbers, as in RWKV-7a, or the output, as in RWKV-8."""
    rank: Size = 32
    """R; every id has R * R numbers, or D where it scales the output."""
    rows: Size = 8192
    """Rows of the table; ids beyond share them."""


class DeepEmbed(Mixer):
    """Channel mixing of RWKV-7 whose inner numbers are scaled by what the position reads."""

    Config = DeepEmbedConfig
    ids = True
    targets = ("key", "value")
    vectors = ("mix", "table.weight")

    def __init__(self, config: DeepEmbedConfig, place: Place) -> None:
        super().__init__(config, place)
        width, rank = place.width, config.rank
        inner = config.width or place.ffn_width or 4 * width
        self.mix = nn.Parameter(torch.empty(width))
        """Share of the position before: RWKV-LM's x_k."""
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(inner, width, bias=False)
        self.inside = config.at == "inner"
        if self.inside:
            self.down = nn.Linear(width, rank, bias=False)
            self.up = nn.Linear(rank, inner)
            """S_2, and s_0 as its bias."""
        self.table = nn.Embedding(config.rows, rank * rank if self.inside else width)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> DeepEmbedConfig:
        """A small table."""
        return DeepEmbedConfig(rank=4, rows=64)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """A position of zeros before the first."""
        return {"embed_shift": torch.zeros(batch, self.place.width, device=device, dtype=dtype)}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the last position."""
        joined, shift = last_inputs(state["embed_shift"][:, None], x, call.lengths)
        k = torch.lerp(x, joined[:, :-1], self.mix.to(x.dtype))  # [B, T, D]
        inner, rows = torch.relu(self.key(k)).square(), self.embedded(call)  # [B, T, F]
        if not self.inside:
            return self.value(inner) * rows, {"embed_shift": shift[:, 0]}
        matrices = rows.unflatten(-1, (self.config.rank, -1))  # [B, T, R, R]
        turned = (self.down(x)[..., None, :] @ matrices).squeeze(-2)  # [B, T, R]
        return self.value(inner * self.up(turned)), {"embed_shift": shift[:, 0]}

    def embedded(self, call: Call) -> Tensor:
        """Return E of every position, the sum over its codebooks [B, T, R R], or at the output,
        where 1 changes nothing, their product [B, T, D].
        """
        assert call.table is not None and call.ids is not None
        book = torch.arange(call.ids.shape[-1], device=call.ids.device)  # [Q]
        moved = call.ids + OF_TABLE * call.table[..., None] + OF_CODEBOOK * book  # [B, T, Q]
        rows = self.table(moved.clamp_min(0) % self.config.rows)  # [B, T, Q, R R]
        return rows.sum(-2) if self.inside else rows.prod(-2)  # [B, T, R R] or [B, T, D]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as plain channel mixing of RWKV-7: S_2 is zero and s_0 one, or E is one."""
        height = 1 - self.place.layer / self.place.layers
        share = torch.arange(self.place.width, dtype=torch.float32) / self.place.width  # [D]
        self.mix.copy_(1 - share ** (height**4))
        rows, columns = self.key.weight.shape
        nn.init.orthogonal_(self.key.weight, gain=math.sqrt(max(1.0, rows / columns)))
        nn.init.zeros_(self.value.weight)
        if not self.inside:
            nn.init.ones_(self.table.weight)
            return
        self.down.reset_parameters()
        nn.init.zeros_(self.up.weight)
        nn.init.ones_(self.up.bias)
        nn.init.normal_(self.table.weight, std=self.config.rank**-0.5)
