"""Kimi Delta Attention (arXiv 2510.26692): the delta rule with one decay a key channel.

g = -exp(A_log[h]) softplus(W_2 W_1 x + dt_bias)        gate = sigmoid(W_g2 W_g1 x)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.stack.mixer import Place
from wishbone.plugins.delta.memory import DeltaMemory
from wishbone.plugins.matrix_memory import step_bias
from wishbone.plugins.stack.engines.recipe import Recipe, Row


class KimiDeltaAttention(DeltaMemory):
    """As in Kimi Linear; both low ranks are the head size."""

    targets = ("qkv", "output")
    eps = 1e-5

    def __init__(self, config: Any, place: Place) -> None:
        super().__init__(config, place)
        heads, values, keys = self.shape
        self.step_down = nn.Linear(place.width, keys, bias=False)
        self.step_up = nn.Linear(keys, heads * keys, bias=False)
        self.gate_down = nn.Linear(place.width, values, bias=False)
        self.gate_up = nn.Linear(values, heads * values, bias=False)
        self.a_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads * keys))
        self.reset_parameters()

    def decay(self, x: Tensor, kind: torch.dtype) -> Tensor:
        """x [B, T, D] -> g [B, T, H, K]."""
        raw = self.step_up(self.step_down(x)).to(kind) + self.dt_bias.to(kind)  # [B, T, H K]
        dt = F.softplus(raw).unflatten(-1, (self.shape[0], -1))  # [B, T, H, K]
        return -self.a_log.to(kind).exp()[:, None] * dt

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """Gate y [B, T, H, V] after its norm."""
        return y * torch.sigmoid(self.gate_up(self.gate_down(x)).to(y.dtype)).view_as(y)

    def write_decay(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``decay`` at one position."""
        raw = recipe.linear(x, self.step_down, careful=True)
        raw = recipe.linear(raw, self.step_up, careful=True)
        times = -self.a_log.exp().repeat_interleave(self.shape[2])  # [H K]
        return recipe.map("softplus", raw, plus=self.dt_bias, times=times)

    def write_gated(self, recipe: Recipe, y: Row, x: Row) -> Row:
        """Write down ``gated`` at one position."""
        gate = recipe.linear(recipe.linear(x, self.gate_down, careful=True), self.gate_up)
        return recipe.pair("multiply", y, recipe.map("sigmoid", gate))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decay as in Kimi Linear: A uniform from 1 to 16, step sizes from 0.001 to 0.1."""
        super().reset_parameters()
        heads, _, keys = self.shape
        self.a_log.copy_(torch.empty(heads).uniform_(1, 16).log())
        self.dt_bias.copy_(step_bias((heads * keys,)))
