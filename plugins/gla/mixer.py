"""Gated linear attention (arXiv 2312.06635, section 4): every key channel decays by itself.

g = logsigmoid(W_2 W_1 x + c) / 16        q, k of half the width
S = S diag(e^g) + v k'                    y = W_o (RMSNorm(S q K^-1/2) * silu(W_g x))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import OptionalSize, Size
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.kernels.recurrence import recurrence
from wishbone.plugins.matrix_memory import MatrixMixer, heads_of, start_normal
from wishbone.plugins.stack.engines.recipe import Recipe, Row

TEMPERATURE = 16
"""The logarithm of the decay is divided by it."""


@dataclass
class GLAConfig:
    """Sizes; keys are half as long as values."""

    head_size: Size = 64
    """V, an even number of numbers of a value; the heads fill the width."""
    rank: Size = 16
    """Rank of the decay."""
    convolution: OptionalSize = 0
    """Positions that a convolution of q, k and v sees; 0 for none, as in the paper."""


class GatedLinearAttention(MatrixMixer):
    """Matrices [V, V / 2], no correction."""

    Config = GLAConfig
    targets = ("qkv", "gate", "output")
    vectors = ("conv.weight",)

    def __init__(self, config: GLAConfig, place: Place) -> None:
        heads = heads_of(place, config.head_size, "gla")
        keys = config.head_size // 2
        self.sizes = (heads * keys, heads * keys, place.width)
        super().__init__(config, place, (heads, config.head_size, keys), sum(self.sizes))
        self.qkv = nn.Linear(place.width, sum(self.sizes), bias=False)
        self.decay_down = nn.Linear(place.width, config.rank, bias=False)
        self.decay_up = nn.Linear(config.rank, heads * keys)
        self.gate = nn.Linear(place.width, place.width, bias=False)
        self.norm = nn.RMSNorm(config.head_size, eps=1e-5)
        self.output = nn.Linear(place.width, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> GLAConfig:
        """Three heads of a small width, and the convolution."""
        return GLAConfig(head_size=16, convolution=4)

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        qkv, after = self.convolved(self.qkv(x), state, call.lengths)  # [B, T, 2 D]
        heads, values, keys = self.shape
        matrix, kind = state["matrix"], state["matrix"].dtype
        q, k, v = (z.unflatten(-1, (heads, -1)).to(kind) for z in qkv.split(self.sizes, -1))
        low = self.decay_up(self.decay_down(x)).to(kind)  # [B, T, H K]
        g = F.logsigmoid(low).unflatten(-1, (heads, -1)) / TEMPERATURE  # [B, T, H, K]
        y, matrix = recurrence(
            q * keys**-0.5, k, v, g, state=matrix, lengths=call.lengths
        )  # [B, T, H, V]
        y = F.rms_norm(y, (values,), self.norm.weight.to(kind), 1e-5).flatten(2)  # [B, T, D]
        y = y.to(x.dtype) * F.silu(self.gate(x))  # [B, T, D]
        return self.output(y), {"matrix": matrix, **after}

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        heads, _, keys = self.shape
        qkv = self.write_convolved(recipe, recipe.linear(x, self.qkv))
        q, k, v = qkv.split(*self.sizes)
        low = recipe.linear(x, self.decay_down, careful=True)
        low = recipe.linear(low, self.decay_up, careful=True)
        g = recipe.map("log_sigmoid", low, factor=1 / TEMPERATURE)
        q = recipe.map("same", q, factor=keys**-0.5)
        y = recipe.memory("matrix", self.shape, q, k, v, g)
        y = recipe.norm(y, self.norm.weight, eps=1e-5, groups=heads)
        y = recipe.pair("multiply", y, recipe.map("silu", recipe.linear(x, self.gate)))
        return recipe.linear(y, self.output)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the models of fla do: normal weights of deviation 0.02, biases 0."""
        start_normal(self)
        nn.init.ones_(self.norm.weight)
        if self.conv is not None:
            self.conv.reset_parameters()
