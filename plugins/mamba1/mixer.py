"""Mamba (arXiv 2312.00752, algorithm 2, section 3.4): a selective scan, N numbers a channel of E.

u, z = W_in x        u = silu(convolution(u))
dt, B, C = W_x u     dt = softplus(W_dt dt + bias)
h_t = exp(dt A) h_{t-1} + dt B u        A = -exp(A_log) [E, N]
y = W_out ((h C + skip u) silu(z))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import OptionalSize, Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs, memory_dtype
from wishbone.kernels.convolution import causal_convolution
from wishbone.kernels.linear_scan import last_state, linear_scan

SLOWEST, FASTEST = 1e-3, 1e-1
"""Range of the first step sizes."""


@dataclass
class MambaConfig:
    """Sizes; the defaults are those of the released models."""

    expand: Size = 2
    """Channels E as a multiple of the width."""
    state: Size = 16
    """Numbers N of each channel."""
    convolution: Size = 4
    """Positions W that the convolution sees."""
    rank: OptionalSize = 0
    """Rank of the step size; 0 means width / 16."""


class Mamba(Mixer):
    """The whole Mamba block: a stack of these wants ``ffn: none``."""

    Config = MambaConfig
    memory = ("ssm",)
    targets = ("in_proj", "x_proj", "out_proj")
    vectors = ("convolution", "a_log")

    def __init__(self, config: MambaConfig, place: Place) -> None:
        super().__init__(config, place)
        self.inner, self.size = config.expand * place.width, config.state
        """E and N."""
        self.rank = config.rank or math.ceil(place.width / 16)
        self.in_proj = nn.Linear(place.width, 2 * self.inner, bias=False)
        self.convolution = nn.Parameter(torch.empty(self.inner, config.convolution))
        self.convolution_bias = nn.Parameter(torch.empty(self.inner))
        self.x_proj = nn.Linear(self.inner, self.rank + 2 * self.size, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.inner)
        self.a_log = nn.Parameter(torch.empty(self.inner, self.size))
        self.skip = nn.Parameter(torch.empty(self.inner))
        self.out_proj = nn.Linear(self.inner, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> MambaConfig:
        """Few numbers a channel."""
        return MambaConfig(state=4)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """All zeros."""
        shape = batch, self.convolution.shape[1] - 1, self.inner
        kind = memory_dtype(dtype)
        return {
            "ssm": torch.zeros(batch, self.inner, self.size, device=device, dtype=kind),
            "conv": torch.zeros(shape, device=device, dtype=dtype),
        }

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        u, z = self.in_proj(x).chunk(2, -1)  # [B, T, E] each
        joined, conv = last_inputs(state["conv"], u, call.lengths)
        taps = self.convolution.to(u.dtype), self.convolution_bias.to(u.dtype)
        u = F.silu(causal_convolution(joined, *taps))  # [B, T, E]
        dt, b, c = self.x_proj(u).split((self.rank, self.size, self.size), -1)  # [B, T, N], dt low
        start = state["ssm"]  # [B, E, N]
        kind = start.dtype
        dt = F.linear(dt, self.dt_proj.weight.to(dt.dtype)).to(kind)  # [B, T, E]
        dt = F.softplus(dt + self.dt_proj.bias.to(kind))[..., None]  # [B, T, E, 1]
        decay = torch.exp(dt * -self.a_log.to(kind).exp())  # [B, T, E, N]
        written = dt * u.to(kind)[..., None] * b.to(kind)[:, :, None]  # [B, T, E, N]
        h = linear_scan(decay, written, start)  # [B, T, E, N]
        y = (h @ c.to(kind)[..., None]).squeeze(-1) + self.skip.to(kind) * u.to(kind)  # [B, T, E]
        y = self.out_proj((y * F.silu(z.to(kind))).to(x.dtype))  # [B, T, D]
        return y, {"ssm": last_state(h, start, call.lengths), "conv": conv}

    def operations(self, context: int = 0) -> int:
        """Count decay, writing and reading of every number, and the convolution."""
        return self.inner * (6 * self.size + 2 * self.convolution.shape[1])

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the released code does: A = -(1 ... N), step sizes from 0.001 to 0.1."""
        for linear in (self.in_proj, self.x_proj, self.out_proj):
            linear.reset_parameters()
        bound = self.convolution.shape[1] ** -0.5
        nn.init.uniform_(self.convolution, -bound, bound)
        nn.init.uniform_(self.convolution_bias, -bound, bound)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        ratio = math.log(FASTEST / SLOWEST)
        dt = torch.rand(self.inner).mul(ratio).exp().mul(SLOWEST).clamp(min=1e-4)  # [E]
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.a_log.copy_(torch.arange(1, self.size + 1).log().expand(self.inner, -1))
        nn.init.ones_(self.skip)
