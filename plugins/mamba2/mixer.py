"""Mamba-2 (arXiv 2405.21060, section 7 and listing 1): one decay a head, keys for all heads.

z, u, B, C = W_in x        u, B, C = silu(convolution(u, B, C))
dt = softplus(W_dt x + dt_bias)
h = e^(-exp(A_log) dt) h + dt u B'        y = h C + skip u
out = W_out RMSNorm(y * silu(z))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import OptionalSize, Size
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.kernels.recurrence import recurrence
from wishbone.plugins.matrix_memory import MatrixMixer, ShortConvolution, step_bias
from wishbone.plugins.stack.engines.recipe import Recipe, Row


@dataclass
class Mamba2Config:
    """Sizes; the defaults are those of the released models, but for ``state``."""

    expand: Size = 2
    """Channels E as a multiple of the width."""
    head_size: Size = 64
    """P, channels of a head."""
    state: Size = 64
    """N, numbers of each channel; the released models have 128."""
    groups: Size = 1
    """Sets of B and C, shared by the heads."""
    convolution: OptionalSize = 4
    """Positions W that the convolution sees; 0 for none."""


class Mamba2(MatrixMixer):
    """The whole block of Mamba-2; it may stand alone (``ffn: none``) or before an ffn."""

    Config = Mamba2Config
    targets = ("in_proj", "out_proj")
    vectors = ("conv.weight",)

    def __init__(self, config: Mamba2Config, place: Place) -> None:
        inner = config.expand * place.width
        heads = inner // config.head_size
        if inner % config.head_size or heads % config.groups:
            raise ConfigError(
                f"{inner} channels make no heads of {config.head_size} in {config.groups} groups.",
                "the mixer mamba2",
                "Choose a head_size that divides expand x width, and groups that divide the heads.",
            )
        keys = config.groups * config.state
        channels = inner + 2 * keys
        super().__init__(config, place, (heads, config.head_size, config.state))
        if config.convolution:
            self.conv = ShortConvolution(channels, config.convolution, bias=True)
        self.sizes = (inner, keys, keys)
        self.in_proj = nn.Linear(place.width, inner + channels + heads, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.a_log = nn.Parameter(torch.empty(heads))
        self.skip = nn.Parameter(torch.empty(heads))
        self.norm = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> Mamba2Config:
        """Six heads in two groups of a small width."""
        return Mamba2Config(head_size=16, state=8, groups=2)

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        heads, size, _ = self.shape
        groups = self.config.groups
        matrix, kind = state["matrix"], state["matrix"].dtype
        inner, keys = self.sizes[:2]
        z, xbc, dt = self.in_proj(x).split((inner, inner + 2 * keys, heads), -1)
        xbc, after = self.convolved(xbc, state, call.lengths)  # [B, T, E + 2 G N]
        u, b, c = xbc.to(kind).split(self.sizes, -1)  # [B, T, E], [B, T, G N] twice
        u = u.unflatten(-1, (heads, size))  # [B, T, H, P]
        b, c = b.unflatten(-1, (groups, -1)), c.unflatten(-1, (groups, -1))  # [B, T, G, N]
        dt = F.softplus(dt.to(kind) + self.dt_bias.to(kind))  # [B, T, H]
        g = -self.a_log.to(kind).exp() * dt  # [B, T, H]
        y, matrix = recurrence(
            c, b, u * dt[..., None], g, state=matrix, lengths=call.lengths
        )  # [B, T, H, P]
        y = torch.addcmul(y, self.skip.to(kind)[:, None], u).flatten(2)  # [B, T, E]
        y = (y * F.silu(z.to(kind))).unflatten(-1, (groups, -1))  # [B, T, G, E / G]
        y = F.rms_norm(y, y.shape[-1:], eps=1e-5).flatten(2) * self.norm.to(kind)  # [B, T, E]
        return self.out_proj(y.to(x.dtype)), {"matrix": matrix, **after}

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        heads, size, _ = self.shape
        inner, keys = self.sizes[:2]
        z, xbc, dt = recipe.linear(x, self.in_proj).split(inner, inner + 2 * keys, heads)
        u, b, c = self.write_convolved(recipe, xbc).split(*self.sizes)
        dt = recipe.map("softplus", dt, plus=self.dt_bias)
        g = recipe.map("same", dt, times=-self.a_log.exp())
        y = recipe.memory("matrix", self.shape, c, b, recipe.pair("multiply", u, dt), g)
        skip = recipe.map("same", u, times=self.skip.repeat_interleave(size))
        y = recipe.pair("multiply", recipe.pair("add", y, skip), recipe.map("silu", z))
        y = recipe.norm(y, self.norm, eps=1e-5, groups=self.config.groups)
        return recipe.linear(y, self.out_proj)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the released code does: A uniform from 1 to 16, step sizes 0.001 to 0.1."""
        self.in_proj.reset_parameters()
        self.out_proj.reset_parameters()
        self.out_proj.weight /= self.place.layers**0.5
        heads = self.shape[0]
        self.a_log.copy_(torch.empty(heads).uniform_(1, 16).log())
        self.dt_bias.copy_(step_bias((heads,)))
        nn.init.ones_(self.skip)
        nn.init.ones_(self.norm)
        if self.conv is not None:
            self.conv.reset_parameters()
