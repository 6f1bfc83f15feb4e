"""Where a noisy mel spectrogram shall move: the causal U-Net of arXiv:2412.10117, section 3.4.

One level of 256 channels at 50 frames per second, no change of rate: a first unit, twelve in the
middle, a last one that also sees what the first made. A unit is a residual pair of convolutions
that look back only, told the time of the solver, and four Transformer blocks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2.flow.memory import Memory, continued, heads_of
from wishbone.plugins.cosyvoice2.packed import linear, neighbours

TIME_SCALE = 1000.0
"""Time runs from 0 to 1, the sinusoids want hundreds."""


class Behind(nn.Module):
    """Convolution over [B, n, C] that sees a frame and the two before it."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width_in, width_out, 3)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        return linear(neighbours(continued(self, x, 2, memory), 3), self.convolution)


class Filter(nn.Module):
    """Convolution, norm over channels, Mish."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.behind = Behind(width_in, width_out)
        self.norm = nn.LayerNorm(width_out)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        return F.mish(self.norm(self.behind(x, memory)))


class Residual(nn.Module):
    """Two filters, the time added between them, beside a path without them."""

    def __init__(self, width_in: int, width_out: int, time_width: int) -> None:
        super().__init__()
        self.first = Filter(width_in, width_out)
        self.time = nn.Linear(time_width, width_out)
        self.second = Filter(width_out, width_out)
        self.direct = nn.Conv1d(width_in, width_out, 1)

    def forward(self, x: Tensor, time: Tensor, memory: Memory | None) -> Tensor:
        """x [B, n, C], time [W] after its Mish."""
        h = self.first(x, memory) + self.time(time)
        return linear(x, self.direct, add=self.second(h, memory))


class Block(nn.Module):
    """Transformer block; the inner width of its attention is its own."""

    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_size
        self.attention_norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, width)
        self.linear_norm = nn.LayerNorm(width)
        self.rise = nn.Linear(width, 4 * width)
        self.fall = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, sees: Tensor | None, memory: Memory | None) -> Tensor:
        all_three = linear(self.attention_norm(x), self.query, self.key, self.value)
        query, both = heads_of(all_three, 3 * self.heads).tensor_split([self.heads], dim=1)
        if memory is not None:
            both = memory.attend(self, both)
        key, value = both.chunk(2, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=sees)
        x = linear(mixed.transpose(1, 2).flatten(2), self.out, add=x)
        risen = linear(self.linear_norm(x), self.rise, activation="gelu")
        return linear(risen, self.fall, add=x)


class Unit(nn.Module):
    """A residual pair of filters, then Transformer blocks."""

    def __init__(
        self, width_in: int, width: int, blocks: int, heads: int, head_size: int, time_width: int
    ) -> None:
        super().__init__()
        self.residual = Residual(width_in, width, time_width)
        self.blocks = nn.ModuleList(Block(width, heads, head_size) for _ in range(blocks))

    def forward(
        self, x: Tensor, time: Tensor, sees: Tensor | None, memory: Memory | None
    ) -> Tensor:
        x = self.residual(x, time, memory)
        for block in self.blocks:
            x = block(x, sees, memory)
        return x


class Estimator(nn.Module):
    """Velocity of every frame: noisy mel, wanted mel, speaker, known mel -> [B, n, M]."""

    def __init__(
        self, mels: int, width: int, units: int, blocks: int, heads: int, head_size: int
    ) -> None:
        super().__init__()
        self.inputs = 4 * mels
        time_width = 4 * width
        shape = (width, blocks, heads, head_size, time_width)
        self.time_rise = nn.Linear(self.inputs, time_width)
        self.time_fall = nn.Linear(time_width, time_width)
        self.first = Unit(self.inputs, *shape)
        self.first_filter = Behind(width, width)
        self.middle = nn.ModuleList(Unit(width, *shape) for _ in range(units))
        self.last = Unit(2 * width, *shape)
        self.last_filter = Behind(width, width)
        self.final = Filter(width, width)
        self.out = nn.Conv1d(width, mels, 1)

    def time(self, t: Tensor) -> Tensor:
        """t, one number in 0..1 -> its embedding [W], as every unit wants it."""
        half = self.inputs // 2
        place = torch.arange(half, device=t.device, dtype=torch.float32)
        angle = TIME_SCALE * t * torch.exp(place * (-math.log(10_000.0) / (half - 1)))
        waves = torch.cat([angle.sin(), angle.cos()]).to(self.time_rise.weight.dtype)
        return F.mish(self.time_fall(F.silu(self.time_rise(waves))))

    def forward(
        self, x: Tensor, t: Tensor, sees: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """x [B, n, 4 M], the four inputs side by side; t one number; ``sees`` [n, n]."""
        time = self.time(t)
        skipped = self.first(x, time, sees, memory)
        h = self.first_filter(skipped, memory)
        for unit in self.middle:
            h = unit(h, time, sees, memory)
        h = self.last(torch.cat([h, skipped], dim=2), time, sees, memory)
        h = self.final(self.last_filter(h, memory), memory)
        return linear(h, self.out)
