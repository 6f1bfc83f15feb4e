"""The equations of one RWKV-7 block: arXiv 2503.14456, section 4, equations 4 to 22.

Time mixing of a position x, with x' the one before it; all vectors have D numbers, H heads of K:

    x_m = x + (x' - x) * mix_m                    token shift, for m in r, w, k, v, a, g
    r, k, v = W_r x_r, W_k x_k, W_v x_v           receptance, key, value
    w = exp(-e^-0.5 sigmoid(w0 + tanh(x_w w1) w2))                 decay
    a = sigmoid(a0 + (x_a a1) a2)                 in-context learning rate
    g = sigmoid(x_g g1) g2                        gate
    v = v + (v_first - v) * sigmoid(v0 + (x_v v1) v2)              value residual, not in block 0
    kappa = (k * k_k) / |k * k_k|                 removal key, per head
    k = k * (1 + (a - 1) * k_a)                   replacement key
    S = S diag(w) - (S kappa) (a * kappa)' + v k'                  the state, per head
    y = norm(S r) + (r . (r_k * k)) v             norm per head, bonus of the position itself
    out = W_o (y * g)

Channel mixing: out = W_v relu(W_k x_k)^2, x_k by a token shift of its own.

``forward`` takes T positions, ``step`` one. They are checked against each other by the contract
suite, and against the official package by ``tests/plugins/test_rwkv7_parity.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.errors import ConfigError
from wishbone.kernels.elementwise import DECAY, finish, fused, mix, prepare, squared_relu
from wishbone.kernels.wkv7 import wkv7
from wishbone.plugins.engines import Engine
from wishbone.plugins.rwkv7.engines.fused_backward import Vectors, attend_fused


@dataclass(frozen=True)
class Shape:
    """The sizes of an RWKV-7: its configuration with every zero replaced by RWKV-LM's rule."""

    width: int
    """C of RWKV-LM, D here."""
    layers: int
    head_size: int
    ffn_width: int
    decay_rank: int
    rate_rank: int
    value_rank: int
    gate_rank: int
    group_norm_eps: float

    @property
    def heads(self) -> int:
        """H."""
        return self.width // self.head_size

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Fill in RWKV-LM's rules. Raises ``ConfigError`` when heads do not divide the width."""
        width, size = config.width, config.head_size
        if width < 1 or size < 1 or width % size:
            raise ConfigError(
                f"Width {width} is not a multiple of head size {size}.",
                "The backbone slot of the system configuration.",
                "Change width or head_size so that the heads fill the width.",
            )
        return cls(
            width=width,
            layers=config.layers,
            head_size=size,
            ffn_width=config.ffn_width or 4 * width,
            decay_rank=config.decay_rank or rank(2.5, width),
            rate_rank=config.rate_rank or rank(2.5, width),
            value_rank=config.value_rank or rank(1.7, width),
            gate_rank=config.gate_rank or rank(5.0, width),
            group_norm_eps=config.group_norm_eps,
        )

    def parameters(self) -> int:
        """Count the parameters of a backbone of this shape."""
        width = self.width
        channel = 5 * width + 2 * width * self.ffn_width
        return 4 * width + self.time_parameters() + self.layers * channel

    def time_parameters(self) -> int:
        """Count the parameters of time mixing, all layers together."""
        width = self.width
        low_rank = 2 * width * (self.decay_rank + self.rate_rank + self.gate_rank)
        value = width + 2 * width * self.value_rank
        per_layer = 13 * width + 4 * width**2 + low_rank
        return self.layers * per_layer + (self.layers - 1) * value


def rank(factor: float, width: int) -> int:
    """RWKV-LM's size of a low-rank product: a multiple of 32 near ``factor * sqrt(width)``."""
    return max(32, 32 * round(factor * math.sqrt(width) / 32))


class TokenShift:
    """The real position before each position, worked out from a mask once for all blocks."""

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
        ones = torch.arange(1, mask.shape[1] + 1, device=mask.device)  # [T]
        latest = torch.where(mask, ones, 0).cummax(1).values  # [B, T]
        self.last = latest[:, -1]  # [B]
        # Padding at the right end alone leaves the neighbours of real positions as they are.
        if not (on_cpu and bool((mask[:, 1:] <= mask[:, :-1]).all())):
            self.previous = F.pad(latest[:, :-1], (1, 0))  # [B, T]

    def before(self, h: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """h [B, T, D], shift [B, D] -> the vector before each position [B, T, D], next shift."""
        joined = torch.cat([shift.to(h.dtype)[:, None], h], 1)  # [B, 1 + T, D]
        if self.last is None:
            return joined[:, :-1], last_of(h)
        rows = torch.arange(len(h), device=h.device)  # [B]
        after = joined[rows, self.last]  # [B, D]
        if self.previous is None:
            return joined[:, :-1], after
        return joined[rows[:, None], self.previous], after


def last_of(h: Tensor) -> Tensor:
    """h [B, T, D] -> its last position [B, D], a copy: a view would keep the others alive."""
    return h[:, -1].clone()  # [B, D]


class TimeMix(nn.Module):
    """The recurrent half of a block: it reads and writes the state of earlier positions."""

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
        self, h: Tensor, v_first: Tensor | None, wkv: Tensor, shift: Tensor, order: TokenShift
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mix T positions h [B, T, D] -> out [B, T, D], v_first, wkv, shift.

        v_first [B, T, D] is v of block 0, or None in it; wkv [B, H, V, K], shift [B, D].
        """
        (x_r, x_w, x_k, x_v, x_a, x_g), shift = _mixed(h, shift, self.mix, order)  # [B, T, D] each
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)  # [B, T, D] each
        low_w = torch.tanh(x_w @ self.w1) @ self.w2  # [B, T, D]
        low_a = (x_a @ self.a1) @ self.a2  # [B, T, D]
        gate = torch.sigmoid(x_g @ self.g1) @ self.g2  # [B, T, D]
        if v_first is None:
            v_first = v
        else:
            low_v = (x_v @ self.v1) @ self.v2  # [B, T, D]
            v = torch.lerp(v, v_first, torch.sigmoid(low_v + self.v0).to(v.dtype))  # [B, T, D]
        vectors = Vectors(
            self.w0, self.a0, self.k_k, self.k_a, self.r_k, self.ln_x.weight, self.ln_x.bias
        )
        # On a GPU slices would only multiply the launches; kernels do there what fusing does here.
        form = attend_fused if h.device.type == "cpu" and h.shape[1] > 1 else attend
        projected = r, k, v, low_w, low_a, gate
        y, wkv = form(projected, vectors, wkv, order.mask, self.eps)  # [B, T, D], [B, H, V, K]
        return self.output(y), v_first, wkv, shift

    def step(
        self, h: Tensor, v_first: Tensor | None, wkv: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix one position h [B, D] -> out [B, D], v_first [B, D], the new wkv [B, H, V, K].

        A step of a small model on a CPU costs what its number of operations costs, so there are
        few. B and H count together as lanes.
        """
        mixed = torch.addcmul(h, shift.to(h.dtype) - h, self.mix[:, None])  # [6, B, D]
        x_r, x_w, x_k, x_v, x_a, x_g = mixed  # [B, D] each
        heads = self.r_k.shape[0]
        batch, full = len(h), wkv.dtype
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)  # [B, D] each
        low_w = torch.tanh(x_w @ self.w1) @ self.w2  # [B, D]
        decay = torch.exp(torch.sigmoid(low_w.to(full) + self.w0) * -DECAY)  # [B, D]
        a = torch.sigmoid(((x_a @ self.a1) @ self.a2).to(full) + self.a0)  # [B, D]
        gate = torch.sigmoid(x_g @ self.g1) @ self.g2  # [B, D]
        if v_first is None:
            v_first = v
        else:
            share = torch.sigmoid((x_v @ self.v1) @ self.v2 + self.v0)  # [B, D]
            v = torch.lerp(v, v_first, share)  # [B, D]
        k = k.to(full)  # [B, D]
        lanes = (batch * heads, 1, -1)
        kappa = F.normalize((k * self.k_k).view(lanes), dim=-1, eps=1e-12)  # [B H, 1, K]
        k = torch.addcmul(k, k, (a - 1) * self.k_a).view(lanes)  # [B H, 1, K]
        r, v_column = r.to(full).view(lanes), v.to(full).view(batch * heads, -1, 1)  # V in rows
        state = wkv.flatten(0, 1)  # [B H, V, K]
        removed = torch.bmm(state, -kappa.mT)  # [B H, V, 1]
        # [removed v] [a kappa; k] is both outer products at once.
        state = torch.baddbmm(
            state * decay.view(lanes),
            torch.cat((removed, v_column), 2),
            torch.cat((kappa * a.view(lanes), k), 1),
        )  # [B H, V, K]
        y = torch.bmm(state, r.mT).view(batch, -1)  # [B, D]
        y = F.group_norm(
            y, heads, self.ln_x.weight.to(full), self.ln_x.bias.to(full), self.eps
        )  # [B, D]
        bonus = ((r * k).view(batch, heads, -1) * self.r_k).sum(-1).view(-1, 1, 1)  # [B H, 1, 1]
        y = torch.add(y, (bonus * v_column).view(batch, -1)) * gate  # [B, D]
        return self.output(y.to(h.dtype)), v_first, state.view_as(wkv)

    @torch.no_grad()
    def reset_parameters(self, shape: Shape, layer: int) -> None:
        """Start as RWKV-LM's x070 does (``train_temp``, after both of its stages).

        ``layer`` counts from 0. Draws from torch's generator.
        """
        width, size = shape.width, shape.head_size
        depth = layer / max(1, shape.layers - 1)
        height = 1 - layer / shape.layers
        n = torch.arange(width, dtype=torch.float32)  # [D]
        line = n / max(1, width - 1) - 0.5  # [D]
        tooth = (n % size - (size - 1) / 2) / max(0.5, (size - 1) / 2)  # [D]
        zigzag = tooth * tooth.abs()  # [D]

        powers = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)
        self.mix.copy_(torch.stack([1 - (n / width) ** (power * height) for power in powers]))
        curve = (n / max(1, width - 1)) ** (1 + depth**0.3)  # [D]
        self.w0.copy_(-6 + 6 * curve + 0.5 + 2.5 * zigzag)
        self.a0.copy_(-0.19 + 0.3 * zigzag + 0.4 * line)
        pairs = [(self.w1, self.w2), (self.a1, self.a2), (self.g1, self.g2)]
        if layer:
            self.v0.copy_(0.73 - 0.4 * line)
            pairs.append((self.v1, self.v2))
        for down, up in pairs:
            nn.init.zeros_(down)
            _orthogonal(up, 0.1 * math.sqrt(max(1.0, up.shape[0] / up.shape[1])))
        self.k_k.copy_(0.71 - 0.1 * line)
        nn.init.constant_(self.k_a, 1.02)
        nn.init.constant_(self.r_k, -0.04)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / shape.layers) ** 0.7)
        _orthogonal(self.receptance.weight, 1.0)
        _orthogonal(self.key.weight, 0.1)
        _orthogonal(self.value.weight, 1.0)
        nn.init.zeros_(self.output.weight)


def attend(
    projected: tuple[Tensor, ...], vectors: Vectors, wkv: Tensor, mask: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Decay, in-context learning rate, WKV, norm per head, bonus and gate.

    projected is r, k, v, low_w, low_a, gate, each [B, T, D]: the low ones are the low-rank
    products without the bias that belongs inside the sigmoid. wkv [B, H, V, K], mask [B, T].
    Returns [B, T, D] in the type of r and the state after. The formulas of ``prepare`` and
    ``finish`` are in ``kernels/elementwise/reference.py``, that of ``wkv7`` in
    ``kernels/wkv7/reference.py``.
    """
    r, k, v, low_w, low_a, gate = projected  # [B, T, D] each
    heads = vectors.r_k.shape[0]
    # On a GPU the traffic counts, and the kernels there round to the type of r anyway.
    kind = r.dtype if r.is_cuda else wkv.dtype
    log_decay, key, removing, adding = prepare(
        k, low_w, low_a, vectors.w0, vectors.a0, vectors.k_k, vectors.k_a, heads, kind
    )  # [B, T, H, K] each
    split = (heads, -1)
    r_heads, v_heads = r.unflatten(-1, split), v.unflatten(-1, split)  # [B, T, H, K], [B, T, H, V]
    y, after = wkv7(
        r_heads, log_decay, key, v_heads, removing, adding, wkv, mask
    )  # [B, T, H, V], [B, H, V, K]
    norm = (vectors.norm_weight, vectors.norm_bias, eps)
    return finish(y, r, key, v, gate, vectors.r_k, *norm), after


class ChannelMix(nn.Module):
    """The feed-forward half of a block; it sees one position and the one before it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.empty(1, shape.width))
        """Share of the previous vector: RWKV-LM's x_k."""
        self.key = nn.Linear(shape.width, shape.ffn_width, bias=False)
        self.value = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, h: Tensor, shift: Tensor, order: TokenShift) -> tuple[Tensor, Tensor]:
        """h [B, T, D], shift [B, D] -> out [B, T, D], next shift."""
        (x_k,), shift = _mixed(h, shift, self.mix, order)  # [B, T, D]
        inner = self.key(x_k)  # [B, T, F]
        inner = squared_relu(inner) if fused(inner) else _SquaredReLU.apply(inner)  # [B, T, F]
        return self.value(inner), shift

    def step(self, h: Tensor, shift: Tensor) -> Tensor:
        """h, shift [B, D] -> out [B, D]."""
        x_k = torch.addcmul(h, shift.to(h.dtype) - h, self.mix[0])  # [B, D]
        return self.value(torch.relu(self.key(x_k)).square())

    @torch.no_grad()
    def reset_parameters(self, shape: Shape, layer: int) -> None:
        """Start as RWKV-LM does; ``layer`` counts from 0. Draws from torch's generator."""
        share = torch.arange(shape.width, dtype=torch.float32) / shape.width  # [D]
        self.mix.copy_(1 - share ** ((1 - layer / shape.layers) ** 4))
        _orthogonal(self.key.weight, 1.0)
        nn.init.zeros_(self.value.weight)


class _SquaredReLU(torch.autograd.Function):
    """relu(x)^2; PyTorch's own two backward passes are slow in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = torch.relu(x)  # [B, T, F]
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


class Stack(Protocol):
    """The parts of the backbone that an engine reads."""

    shape: Shape
    width: int
    norm_in: nn.LayerNorm
    blocks: nn.ModuleList
    """``Block`` each."""
    norm_out: nn.LayerNorm
    _engine: Engine | None


def _mixed(
    h: Tensor, shift: Tensor, rows: Tensor, order: TokenShift
) -> tuple[list[Tensor], Tensor]:
    """h + (before - h) * row for every row, in the type the matrix products want; next shift."""
    autocast = torch.is_autocast_enabled(h.device.type)
    low = torch.get_autocast_dtype(h.device.type) if autocast else h.dtype
    if fused(h):
        # Without a mask the kernel finds the neighbours itself.
        before, after = (shift, last_of(h)) if order.mask is None else order.before(h, shift)
        return mix(h, before, rows, low), after
    before, after = order.before(h, shift)  # [B, T, D], [B, D]
    h = h.to(low)  # [B, T, D]
    difference = before.to(low) - h  # [B, T, D]
    return [torch.addcmul(h, difference, row) for row in rows.to(low)], after


def _orthogonal(weight: Tensor, gain: float) -> None:
    # A backbone on the meta device has a shape and nothing to fill.
    if not weight.is_meta:
        nn.init.orthogonal_(weight, gain=gain)
