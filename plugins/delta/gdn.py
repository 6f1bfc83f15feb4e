"""Gated DeltaNet (arXiv 2412.06464): the delta rule with one decay a head.

g = -exp(A_log) softplus(W_a x + dt_bias)        gate = silu(W_g x)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.stack.mixer import Place
from wishbone.plugins.delta.memory import DeltaMemory, GroupedConfig
from wishbone.plugins.matrix_memory import step_bias
from wishbone.plugins.stack.engines.recipe import Recipe, Row


class GatedDeltaNet(DeltaMemory):
    """As in Qwen3-Next: several heads of values may share a key."""

    Config = GroupedConfig
    targets = ("qkv", "gate", "output")

    def __init__(self, config: Any, place: Place) -> None:
        super().__init__(config, place)
        heads, values, _ = self.shape
        self.step_size = nn.Linear(place.width, heads, bias=False)
        self.gate = nn.Linear(place.width, heads * values, bias=False)
        self.a_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def decay(self, x: Tensor, kind: torch.dtype) -> Tensor:
        """x [B, T, D] -> g [B, T, H]."""
        dt = F.softplus(self.step_size(x).to(kind) + self.dt_bias.to(kind))  # [B, T, H]
        return -self.a_log.to(kind).exp() * dt

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """Gate y [B, T, H, V] after its norm."""
        return y * F.silu(self.gate(x).to(y.dtype)).view_as(y)

    def write_decay(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``decay`` at one position."""
        raw = recipe.linear(x, self.step_size, careful=True)
        return recipe.map("softplus", raw, plus=self.dt_bias, times=-self.a_log.exp())

    def write_gated(self, recipe: Recipe, y: Row, x: Row) -> Row:
        """Write down ``gated`` at one position."""
        return recipe.pair("multiply", y, recipe.map("silu", recipe.linear(x, self.gate)))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decay as in Mamba-2 and Qwen3-Next: A uniform to 16, step sizes from 0.001 to 0.1."""
        super().reset_parameters()
        self.a_log.copy_(torch.empty(self.shape[0]).uniform_(0.01, 16).log())
        self.dt_bias.copy_(step_bias((self.shape[0],)))
