"""Retention (arXiv 2307.08621, section 2): rotated keys, and a fixed decay of each head.

S = gamma_h S + v k'        gamma_h = 1 - 2^(-5 - h)        q, k rotated by their position
y = W_o (RMSNorm(S q K^-1/2) * silu(W_g x))
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
from wishbone.plugins.matrix_memory import MatrixMixer, heads_of
from wishbone.plugins.stack.engines.recipe import Recipe, Row

BASE = 10000.0
"""Wave length of the slowest rotation, over 2 pi."""


@dataclass
class RetNetConfig:
    """Sizes; values are twice as long as keys."""

    head_size: Size = 64
    """K, an even number of numbers of a key; the heads fill the width."""
    expand: Size = 2
    """Numbers of a value, as a multiple of head_size."""


class Retention(MatrixMixer):
    """Matrices [2 K, K] whose decay learns nothing."""

    Config = RetNetConfig
    positions = True
    targets = ("qkv", "gate", "output")

    def __init__(self, config: RetNetConfig, place: Place) -> None:
        heads, keys = heads_of(place, config.head_size, "retnet"), config.head_size
        super().__init__(config, place, (heads, config.expand * keys, keys))
        inner = config.expand * place.width
        self.sizes = (place.width, place.width, inner)
        self.qkv = nn.Linear(place.width, sum(self.sizes), bias=False)
        self.gate = nn.Linear(place.width, inner, bias=False)
        self.output = nn.Linear(inner, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> RetNetConfig:
        """Three heads of a small width."""
        return RetNetConfig(head_size=16)

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        heads, values, keys = self.shape
        matrix, kind = state["matrix"], state["matrix"].dtype
        parts = self.qkv(x).split(self.sizes, -1)
        q, k, v = (z.unflatten(-1, (heads, -1)).to(kind) for z in parts)  # [B, T, H, K], with V
        angles = _angles(x, call.start, keys, kind)  # [B, T, 1, K / 2]
        q, k = (_rotated(z, angles) for z in (q * keys**-0.5, k))  # [B, T, H, K] each
        g = _decays(heads, kind, x.device).expand(*x.shape[:2], -1)  # [B, T, H]
        y, matrix = recurrence(q, k, v, g, state=matrix, lengths=call.lengths)  # [B, T, H, V]
        y = F.rms_norm(y, (values,), eps=1e-6).flatten(2).to(x.dtype)  # [B, T, 2 D]
        return self.output(y * F.silu(self.gate(x))), {"matrix": matrix}

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        heads, _, keys = self.shape
        q, k, v = recipe.linear(x, self.qkv).split(*self.sizes)
        frequencies = _frequencies(keys)  # [K / 2]
        q, k = recipe.turn(q, frequencies, keys**-0.5), recipe.turn(k, frequencies)
        g = recipe.constant(_decays(heads, torch.float32))
        y = recipe.norm(recipe.memory("matrix", self.shape, q, k, v, g), eps=1e-6, groups=heads)
        y = recipe.pair("multiply", y, recipe.map("silu", recipe.linear(x, self.gate)))
        return recipe.linear(y, self.output)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the authors' torchscale does: Xavier, smaller by 2^2.5, the output by 2."""
        for linear in (self.qkv, self.gate):
            for part in linear.weight.split(self.place.width):
                nn.init.xavier_uniform_(part, gain=2**-2.5)
        nn.init.xavier_uniform_(self.output.weight, gain=2**-1)


def _decays(heads: int, kind: torch.dtype, device: torch.device | None = None) -> Tensor:
    """Logarithm of each head's decay [H]."""
    return torch.log1p(-(2.0 ** (-5 - torch.arange(heads, device=device, dtype=kind))))


def _frequencies(keys: int, device: torch.device | None = None) -> Tensor:
    """Rotation of each pair from one position to the next, [K / 2] float64."""
    pairs = torch.arange(0, keys, 2, device=device, dtype=torch.float64)  # [K / 2]
    return BASE ** (-pairs / keys)


def _angles(x: Tensor, start: Tensor | None, keys: int, kind: torch.dtype) -> Tensor:
    """Rotation of each pair at each position, [B, T, 1, K / 2] or [1, T, 1, K / 2]."""
    position = torch.arange(x.shape[1], device=x.device)[None]  # [1, T]
    if start is not None:
        position = position + start[:, None]  # [B, T]
    turned = position[..., None, None] * _frequencies(keys, x.device)  # [B, T, 1, K / 2]
    return turned.to(kind)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """x [B, T, H, K] -> number i turned with number i + K / 2."""
    first, second = x.chunk(2, -1)  # [B, T, H, K / 2] each
    cos, sin = angles.cos(), angles.sin()  # [B, T, 1, K / 2] each
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
