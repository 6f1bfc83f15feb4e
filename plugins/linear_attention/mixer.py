"""Linear attention (arXiv 2006.16236, equations 4 to 7, 16 to 20): no decay, but a normaliser.

S = S + v phi(k)'        n = n + phi(k)        phi = elu + 1
y = W_o (S phi(q) / (n . phi(q)))

n is one more row of S, whose value is always 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.kernels.recurrence import recurrence
from wishbone.plugins.matrix_memory import MatrixMixer, heads_of, start_normal
from wishbone.plugins.stack.engines.recipe import Recipe, Row


@dataclass
class LinearAttentionConfig:
    """Size of a head."""

    head_size: Size = 64
    """Numbers of a key and of a value; the heads fill the width."""


class LinearAttention(MatrixMixer):
    """Matrices [K + 1, K]."""

    Config = LinearAttentionConfig
    targets = ("qkv", "output")

    def __init__(self, config: LinearAttentionConfig, place: Place) -> None:
        heads = heads_of(place, config.head_size, "linear_attention")
        super().__init__(config, place, (heads, config.head_size + 1, config.head_size))
        self.qkv = nn.Linear(place.width, 3 * place.width, bias=False)
        self.output = nn.Linear(place.width, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> LinearAttentionConfig:
        """Three heads of a small width."""
        return LinearAttentionConfig(head_size=16)

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        matrix, kind = state["matrix"], state["matrix"].dtype
        shape = (self.shape[0], -1)
        q, k, v = (z.unflatten(-1, shape).to(kind) for z in self.qkv(x).chunk(3, -1))
        v = F.pad(v, (0, 1), value=1.0)  # [B, T, H, V + 1]
        # One scale for all of q cancels; this one keeps sums near 1.
        q, k = F.elu(q).add(1) * q.shape[-1] ** -0.5, F.elu(k).add(1)  # [B, T, H, K] each
        y, matrix = recurrence(q, k, v, state=matrix, lengths=call.lengths)  # [B, T, H, V + 1]
        y = y[..., :-1] / (y[..., -1:] + 1e-10)  # [B, T, H, V]
        return self.output(y.flatten(2).to(x.dtype)), {"matrix": matrix}

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        heads, _, keys = self.shape
        q, k, v = recipe.linear(x, self.qkv).split(*[self.place.width] * 3)
        q, k = recipe.map("elu_1", q, factor=keys**-0.5), recipe.map("elu_1", k)
        y = recipe.memory("matrix", self.shape, q, k, v)
        return recipe.linear(recipe.divide(y, heads, 1e-10), self.output)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the models of fla do: normal weights of deviation 0.02."""
        start_normal(self)
