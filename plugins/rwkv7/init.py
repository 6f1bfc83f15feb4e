"""How RWKV-LM starts an x070 (``train_temp``, after both of its stages)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wishbone.plugins.rwkv7.layers import Block, TimeMix
from wishbone.plugins.rwkv7.shape import Shape


@torch.no_grad()
def initialise(block: Block, shape: Shape, layer: int) -> None:
    """Fill the parameters of block ``layer``, counted from 0. Draws from torch's generator."""
    initialise_time(block.time_mix, shape, layer)
    channel = block.channel_mix
    share = torch.arange(shape.width, dtype=torch.float32) / shape.width
    channel.mix.copy_(1 - share ** ((1 - layer / shape.layers) ** 4))
    _orthogonal(channel.key.weight, 1.0)
    nn.init.zeros_(channel.value.weight)


@torch.no_grad()
def initialise_time(time: TimeMix, shape: Shape, layer: int) -> None:
    """The recurrent half of ``initialise``, which may stand in a block of another kind."""
    width, size = shape.width, shape.head_size
    depth = layer / max(1, shape.layers - 1)
    height = 1 - layer / shape.layers
    n = torch.arange(width, dtype=torch.float32)
    share = n / width
    line = n / max(1, width - 1) - 0.5
    tooth = (n % size - (size - 1) / 2) / max(0.5, (size - 1) / 2)
    zigzag = tooth * tooth.abs()

    powers = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)
    time.mix.copy_(torch.stack([1 - share ** (power * height) for power in powers]))
    curve = (n / max(1, width - 1)) ** (1 + depth**0.3)
    time.w0.copy_(-6 + 6 * curve + 0.5 + 2.5 * zigzag)
    time.a0.copy_(-0.19 + 0.3 * zigzag + 0.4 * line)
    pairs = [(time.w1, time.w2), (time.a1, time.a2), (time.g1, time.g2)]
    if layer:
        time.v0.copy_(0.73 - 0.4 * line)
        pairs.append((time.v1, time.v2))
    for down, up in pairs:
        nn.init.zeros_(down)
        _orthogonal(up, 0.1 * math.sqrt(max(1.0, up.shape[0] / up.shape[1])))
    time.k_k.copy_(0.71 - 0.1 * line)
    nn.init.constant_(time.k_a, 1.02)
    nn.init.constant_(time.r_k, -0.04)
    nn.init.constant_(time.ln_x.weight, ((1 + layer) / shape.layers) ** 0.7)
    _orthogonal(time.receptance.weight, 1.0)
    _orthogonal(time.key.weight, 0.1)
    _orthogonal(time.value.weight, 1.0)
    nn.init.zeros_(time.output.weight)


def _orthogonal(weight: Tensor, gain: float) -> None:
    # A backbone on the meta device has a shape and nothing to fill.
    if not weight.is_meta:
        nn.init.orthogonal_(weight, gain=gain)
