"""Estimate the velocity of a noisy mel spectrogram: the causal U-Net of CosyVoice2.

arXiv:2412.10117, section 3.4; ``CausalConditionalDecoder`` in cosyvoice/flow/decoder.py, with the
layers of Matcha-TTS (matcha/models/components/decoder.py).

One level of 256 channels at 50 frames per second, no change of rate: a first unit, twelve in the
middle, a last one that also sees the output of the first. A unit is a residual pair of convolutions
that look back only, with the time of the solver added, and four Transformer blocks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2.flow.memory import Memory, continued, heads_of
from wishbone.plugins.cosyvoice2.packed import linear, neighbours

TIME_SCALE = 1000.0
"""Factor of the time, which runs from 0 to 1, under the sinusoids."""


class Behind(nn.Module):
    """Convolution over [B, n, C] that sees a frame and the two before it."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width_in, width_out, 3)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """x [B, n, C] -> [B, n, C']."""
        h = neighbours(continued(self, x, 2, memory), 3)  # [B, n, 3 C]
        return linear(h, self.convolution)  # [B, n, C']


class Filter(nn.Module):
    """Convolution, norm over channels, Mish."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.behind = Behind(width_in, width_out)
        self.norm = nn.LayerNorm(width_out)

    def forward(self, x: Tensor, memory: Memory | None) -> Tensor:
        """x [B, n, C] -> [B, n, C']."""
        return F.mish(self.norm(self.behind(x, memory)))  # [B, n, C']


class Residual(nn.Module):
    """Two filters, the time added between them, beside a path without them."""

    def __init__(self, width_in: int, width_out: int, time_width: int) -> None:
        super().__init__()
        self.first = Filter(width_in, width_out)
        self.time = nn.Linear(time_width, width_out)
        self.second = Filter(width_out, width_out)
        self.direct = nn.Conv1d(width_in, width_out, 1)

    def forward(self, x: Tensor, time: Tensor, memory: Memory | None) -> Tensor:
        """x [B, n, C] and time [W] after its Mish -> [B, n, C']."""
        h = self.first(x, memory) + self.time(time)  # [B, n, C']
        return linear(x, self.direct, add=self.second(h, memory))  # [B, n, C']


class Block(nn.Module):
    """Transformer block of H heads of d numbers, where H d is not the width.

    ``BasicTransformerBlock`` in matcha/models/components/transformer.py.
    """

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
        """x [B, n, C] -> [B, n, C]; ``sees`` [n, T], true where a frame sees another one."""
        qkv = linear(self.attention_norm(x), self.query, self.key, self.value)  # [B, n, 3 H d]
        query, both = heads_of(qkv, 3 * self.heads).tensor_split(
            [self.heads], dim=1
        )  # [B, H, n, d]
        if memory is not None:
            both = memory.attend(self, both)  # [B, 2 H, T, d]
        key, value = both.chunk(2, dim=1)  # [B, H, T, d]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=sees)  # [B, H, n, d]
        x = linear(mixed.transpose(1, 2).flatten(2), self.out, add=x)  # [B, n, C]
        inner = linear(self.linear_norm(x), self.rise, activation="gelu")  # [B, n, 4 C]
        return linear(inner, self.fall, add=x)  # [B, n, C]


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
        """x [B, n, C] -> [B, n, C']; the others as in ``Residual`` and ``Block``."""
        x = self.residual(x, time, memory)  # [B, n, C']
        for block in self.blocks:
            x = block(x, sees, memory)  # [B, n, C']
        return x


class Estimator(nn.Module):
    """Velocity of every frame: noisy mel, encoded codes, speaker, prompt's mel -> [B, n, M]."""

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
        """Embed t, one number in 0..1 -> [W], as every unit reads it."""
        half = self.inputs // 2
        place = torch.arange(half, device=t.device, dtype=torch.float32)  # [2 M]
        angle = TIME_SCALE * t * torch.exp(place * (-math.log(10_000.0) / (half - 1)))  # [2 M]
        waves = torch.cat([angle.sin(), angle.cos()]).to(self.time_rise.weight.dtype)  # [4 M]
        return F.mish(self.time_fall(F.silu(self.time_rise(waves))))  # [W]

    def forward(
        self, x: Tensor, t: Tensor, sees: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """x [B, n, 4 M], the four inputs side by side, at time t -> [B, n, M]; ``sees`` [n, n]."""
        time = self.time(t)  # [W]
        skipped = self.first(x, time, sees, memory)  # [B, n, C]
        h = self.first_filter(skipped, memory)  # [B, n, C]
        for unit in self.middle:
            h = unit(h, time, sees, memory)  # [B, n, C]
        h = self.last(torch.cat([h, skipped], dim=2), time, sees, memory)  # [B, n, C]
        h = self.final(self.last_filter(h, memory), memory)  # [B, n, C]
        return linear(h, self.out)  # [B, n, M]
