"""The two halves of an RWKV-7 block. Symbols are those of arXiv 2503.14456, section 4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.kernels.elementwise import fused, mix, squared_relu
from wishbone.plugins.rwkv7.engines.fused_backward import attend_fused
from wishbone.plugins.rwkv7.formula import Weights, attend
from wishbone.plugins.rwkv7.shape import Shape


class Steps:
    """What a mask says about the order of positions; worked out once for all blocks."""

    def __init__(self, mask: Tensor | None, x: Tensor) -> None:
        """mask [B, T] true at real positions, or nothing; x [B, T, D] gives the device."""
        on_cpu = x.device.type == "cpu"
        if mask is not None and on_cpu and bool(mask.all()):
            mask = None
        self.mask = mask
        """[B, T], or None where every position is real."""
        self.last: Tensor | None = None
        """[B] one more than the last real position, 0 where there is none."""
        self.previous: Tensor | None = None
        """[B, T] one more than the real position before each; None where that is its neighbour."""
        if mask is None:
            return
        ones = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        latest = torch.where(mask, ones, 0).cummax(1).values
        self.last = latest[:, -1]
        # Padding at the right end alone leaves the neighbours of real positions as they are.
        if not (on_cpu and bool((mask[:, 1:] <= mask[:, :-1]).all())):
            self.previous = F.pad(latest[:, :-1], (1, 0))

    def shift(self, h: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        """h [B, T, D], carry [B, D] -> the vector before each position [B, T, D], next carry."""
        both = torch.cat([carry.to(h.dtype)[:, None], h], 1)
        if self.last is None:
            return both[:, :-1], h[:, -1]
        rows = torch.arange(len(h), device=h.device)
        after = both[rows, self.last]
        if self.previous is None:
            return both[:, :-1], after
        return both[rows[:, None], self.previous], after


class TimeMix(nn.Module):
    """The recurrent half: what earlier positions wrote, read by this one."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        width = shape.width
        self.eps = shape.group_norm_eps
        self.mix = nn.Parameter(torch.empty(6, width))
        """Share of the previous vector in r, w, k, v, a, g: RWKV-LM's x_r ... x_g."""
        self.w0 = nn.Parameter(torch.empty(width))
        self.w1 = nn.Parameter(torch.empty(width, shape.decay_rank))
        self.w2 = nn.Parameter(torch.empty(shape.decay_rank, width))
        self.a0 = nn.Parameter(torch.empty(width))
        self.a1 = nn.Parameter(torch.empty(width, shape.rate_rank))
        self.a2 = nn.Parameter(torch.empty(shape.rate_rank, width))
        if layer:
            self.v0 = nn.Parameter(torch.empty(width))
            self.v1 = nn.Parameter(torch.empty(width, shape.value_rank))
            self.v2 = nn.Parameter(torch.empty(shape.value_rank, width))
        self.g1 = nn.Parameter(torch.empty(width, shape.gate_rank))
        self.g2 = nn.Parameter(torch.empty(shape.gate_rank, width))
        self.k_k = nn.Parameter(torch.empty(width))
        self.k_a = nn.Parameter(torch.empty(width))
        self.r_k = nn.Parameter(torch.empty(shape.heads, shape.head_size))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = nn.LayerNorm(width)
        """Weight and bias of the group norm over each head."""

    def forward(
        self, h: Tensor, first: Tensor | None, wkv: Tensor, carry: Tensor, steps: Steps
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """h [B, T, D]; ``first`` is v of block 0, or None in it. -> out, first, wkv, carry."""
        (x_r, x_w, x_k, x_v, x_a, x_g), carry = _mixed(h, carry, self.mix, steps)
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        low_w = torch.tanh(x_w @ self.w1) @ self.w2
        low_a = (x_a @ self.a1) @ self.a2
        gate = torch.sigmoid(x_g @ self.g1) @ self.g2
        if first is None:
            first = v
        else:
            low_v = (x_v @ self.v1) @ self.v2
            v = torch.lerp(v, first, torch.sigmoid(low_v + self.v0).to(v.dtype))
        weights = Weights(
            self.w0, self.a0, self.k_k, self.k_a, self.r_k, self.ln_x.weight, self.ln_x.bias
        )
        # On a GPU slices would only multiply the launches; kernels do there what fusing does here.
        form = attend_fused if h.device.type == "cpu" and h.shape[1] > 1 else attend
        y, wkv = form((r, k, v, low_w, low_a, gate), weights, wkv, steps.mask, self.eps)
        return self.output(y), first, wkv, carry


class ChannelMix(nn.Module):
    """The half that works on one position and the one before it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.empty(1, shape.width))
        """Share of the previous vector: RWKV-LM's x_k."""
        self.key = nn.Linear(shape.width, shape.ffn_width, bias=False)
        self.value = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, h: Tensor, carry: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """h [B, T, D], carry [B, D] -> out [B, T, D], next carry."""
        (x_k,), carry = _mixed(h, carry, self.mix, steps)
        inner = self.key(x_k)
        inner = squared_relu(inner) if fused(inner) else _SquaredReLU.apply(inner)
        return self.value(inner), carry


class _SquaredReLU(torch.autograd.Function):
    """relu(x)^2; PyTorch's own two backward passes are slow in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (dy * positive).mul_(2)


class Block(nn.Module):
    """One layer: both halves and the norms before them."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.norm_time = nn.LayerNorm(shape.width)
        self.time_mix = TimeMix(shape, layer)
        self.norm_channel = nn.LayerNorm(shape.width)
        self.channel_mix = ChannelMix(shape)


def _mixed(h: Tensor, carry: Tensor, rows: Tensor, steps: Steps) -> tuple[list[Tensor], Tensor]:
    """h + (before - h) * row for every row, in the type the matrix products want; next carry."""
    low = torch.get_autocast_dtype(h.device.type) if _autocast(h) else h.dtype
    if fused(h):
        # Without a mask the kernel finds the neighbours itself.
        before, after = (carry, h[:, -1]) if steps.mask is None else steps.shift(h, carry)
        return mix(h, before, rows, low), after
    before, after = steps.shift(h, carry)
    h = h.to(low)
    difference = before.to(low) - h
    return [torch.addcmul(h, difference, row) for row in rows.to(low)], after


def _autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)
