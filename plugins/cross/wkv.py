"""CrossWKV, an interpretation of an abstract (arXiv 2504.14260): RWKV-7's memory, written by text.

    text position:    S = S diag(w) - (S kappa) (a * kappa)' + v k'        w, a, kappa, k, v of x
    every position:   y = W_o (norm(S r) * gate)                           r, gate of x

The letters are RWKV-7's (``plugins/rwkv7/layers.py``). Speech changes nothing in S.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype, real_positions
from wishbone.kernels.elementwise import DECAY
from wishbone.kernels.wkv7 import wkv7
from wishbone.plugins.initial_weights import start_small
from wishbone.plugins.matrix_memory import heads_of


@dataclass
class CrossWKVConfig:
    """Sizes."""

    head_size: Size = 64
    """K and V of one head; it divides the width."""
    rank: Size = 32
    """Rank of decay, rate and gate."""


class CrossWKV(Mixer):
    """A matrix of text in every head; speech positions only read."""

    Config = CrossWKVConfig
    ids = True
    memory = ("cross_wkv",)
    targets = ("receptance", "key", "value", "output")

    def __init__(self, config: CrossWKVConfig, place: Place) -> None:
        super().__init__(config, place)
        width = place.width
        self.heads = heads_of(place, config.head_size, "cross_wkv")
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.decay, self.rate, self.gate = (_LowRank(width, config.rank) for _ in range(3))
        self.k_k = nn.Parameter(torch.empty(width))
        self.k_a = nn.Parameter(torch.empty(width))
        self.norm = nn.GroupNorm(self.heads, width, eps=64e-5)
        self.output = nn.Linear(width, width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> CrossWKVConfig:
        """Three heads of 16."""
        return CrossWKVConfig(head_size=16, rank=4)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """No text yet."""
        size = self.config.head_size
        shape = batch, self.heads, size, size
        return {"cross_wkv": torch.zeros(shape, device=device, dtype=memory_dtype(dtype))}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        assert call.table is not None
        text, real = call.table != 0, real_positions(call.lengths, x)  # [B, T] each
        start = state["cross_wkv"]  # [B, H, V, K]
        split, kind = (self.heads, -1), start.dtype
        r, k, v = (f(x).to(kind) for f in (self.receptance, self.key, self.value))  # [B, T, D]
        log_decay = -DECAY * torch.sigmoid(self.decay(x, torch.tanh).to(kind))  # [B, T, D]
        a = torch.sigmoid(self.rate(x).to(kind))  # [B, T, D]
        kappa = F.normalize((k * self.k_k).unflatten(-1, split), dim=-1)  # [B, T, H, K]
        k = k * (1 + (a - 1) * self.k_a)  # [B, T, D]
        r, log_decay, k, v, a = (z.unflatten(-1, split) for z in (r, log_decay, k, v, a))
        mask = text if real is None else text & real  # [B, T]
        y, after = wkv7(r, log_decay, k, v, -kappa, kappa * a, start, mask)  # [B, T, H, V]
        y = self.norm(y.flatten(0, 1).flatten(1).to(x.dtype)).view_as(x)  # [B, T, D]
        return self.output(y * self.gate(x, torch.sigmoid)), {"cross_wkv": after.contiguous()}

    def operations(self, context: int = 0) -> int:
        """Count decay, removal, writing and reading of the matrices."""
        return 8 * self.heads * self.config.head_size**2

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-7 does where it has no shift; the output is zero, so nothing changes."""
        start_small(self.place, self.receptance, self.key, self.value)
        line = torch.linspace(-0.5, 0.5, self.place.width)  # [D]
        for low_rank, bias in ((self.decay, 6 * line - 2), (self.rate, 0.4 * line - 0.19)):
            low_rank.reset_parameters()
            low_rank.up.bias.copy_(bias)
        self.gate.reset_parameters()
        nn.init.ones_(self.gate.up.bias)
        self.k_k.copy_(0.71 - 0.1 * line)
        nn.init.constant_(self.k_a, 1.02)
        self.norm.reset_parameters()
        nn.init.zeros_(self.output.weight)


class _LowRank(nn.Module):
    """Two matrices with a function between them, and a bias."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, x: Tensor, between: object = None) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        low = self.down(x)  # [B, T, R]
        return self.up(between(low) if callable(between) else low)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The first matrix is zero, so that only the bias speaks."""
        nn.init.zeros_(self.down.weight)
        self.up.reset_parameters()
