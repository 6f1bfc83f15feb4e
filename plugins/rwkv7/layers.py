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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import OptionalSize, Positive, Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs, memory_dtype, real_positions
from wishbone.kernels.elementwise import DECAY, fused, mix, squared_relu
from wishbone.kernels.wkv7 import triton_missing
from wishbone.plugins.matrix_memory import WKV, Memory
from wishbone.plugins.rwkv7.attention import attend, written
from wishbone.plugins.rwkv7.engines.fused_backward import Vectors, attend_fused
from wishbone.plugins.rwkv7.engines.recipe import write_channel_mix, write_time_mix

FIRST = "v_first"
"""Name in ``Call.shared`` of the values [B, T, D] of the first time mixing of a stack."""


@dataclass
class TimeMixConfig:
    """Heads and the ranks of low-rank products."""

    head_size: Size = 64
    """K and V of one head."""
    decay_rank: OptionalSize = 0
    """Rank of the decay's low-rank product; 0 means RWKV-LM's rule for this width."""
    rate_rank: OptionalSize = 0
    """Rank for a, the in-context learning rate; 0 means the rule."""
    value_rank: OptionalSize = 0
    """Rank for the share of the first block's value; 0 means the rule."""
    gate_rank: OptionalSize = 0
    """Rank for the output gate; 0 means the rule."""
    group_norm_eps: Positive = 64e-5
    """Of the norm after WKV: RWKV-LM uses this for every head size, fla head_size * 1e-5."""


@dataclass
class ChannelMixConfig:
    """Inner width."""

    width: OptionalSize = 0
    """Inner width F; 0 means the stack's ``ffn_width``, or 4 D where that is 0, too."""


def rank(factor: float, width: int) -> int:
    """RWKV-LM's size of a low-rank product: a multiple of 32 near ``factor * sqrt(width)``."""
    return max(32, 32 * round(factor * math.sqrt(width) / 32))


class TimeMix(Mixer):
    """The recurrent half of a block: it reads and writes the state of earlier positions.

    State: ``wkv`` [B, H, V, K], rows are values as in RWKV-LM, and ``time_shift`` [B, D], the last
    vector. The first such half of a stack leaves its values to the later ones; where a half reads
    ``wkv``, each leaves what it does to its matrices.
    """

    Config = TimeMixConfig
    publishes = (FIRST,)
    offers = (WKV,)
    memory = ("wkv",)
    targets = ("receptance", "key", "value", "output")
    fast = ("w0",)
    vectors = ("mix", "r_k")
    recipe = write_time_mix

    def __init__(self, config: TimeMixConfig, place: Place) -> None:
        super().__init__(config, place)
        width, size = place.width, config.head_size
        self.heads = check_heads(width, size)
        ranks = (
            config.decay_rank or rank(2.5, width),
            config.rate_rank or rank(2.5, width),
            config.value_rank or rank(1.7, width),
            config.gate_rank or rank(5.0, width),
        )
        self.adds_first = FIRST in place.published
        """True where an earlier half leaves its values."""
        self.eps = config.group_norm_eps
        self.beside: Any = None
        """A module with a memory of its own that adds to what ``wkv`` answers; state tuning's."""
        self.mix = nn.Parameter(torch.empty(6, width))
        """Share of the previous vector in r, w, k, v, a, g: RWKV-LM's x_r ... x_g."""
        self.w0 = nn.Parameter(torch.empty(width))
        self.w1 = nn.Parameter(torch.empty(width, ranks[0]))
        self.w2 = nn.Parameter(torch.empty(ranks[0], width))
        self.a0 = nn.Parameter(torch.empty(width))
        self.a1 = nn.Parameter(torch.empty(width, ranks[1]))
        self.a2 = nn.Parameter(torch.empty(ranks[1], width))
        if self.adds_first:
            self.v0 = nn.Parameter(torch.empty(width))
            self.v1 = nn.Parameter(torch.empty(width, ranks[2]))
            self.v2 = nn.Parameter(torch.empty(ranks[2], width))
        self.g1 = nn.Parameter(torch.empty(width, ranks[3]))
        self.g2 = nn.Parameter(torch.empty(ranks[3], width))
        self.k_k = nn.Parameter(torch.empty(width))
        self.k_a = nn.Parameter(torch.empty(width))
        self.r_k = nn.Parameter(torch.empty(self.heads, size))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = nn.LayerNorm(width)
        """Weight and bias of the group norm over each head."""
        if place.start:
            self.reset_parameters()

    @classmethod
    def small_config(cls) -> TimeMixConfig:
        """Three heads in a stack of width 48."""
        return TimeMixConfig(head_size=16)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Return zeros."""
        size, kind = self.config.head_size, memory_dtype(dtype)
        wkv = torch.zeros(batch, self.heads, size, size, device=device, dtype=kind)  # [B, H, V, K]
        shift = torch.zeros(batch, self.place.width, device=device, dtype=dtype)  # [B, D]
        state = {"wkv": wkv, "time_shift": shift}
        return state if self.beside is None else state | self.beside.first(wkv)

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state."""
        mixed, shift = _mixed(x, state["time_shift"], self.mix, call.lengths)
        x_r, x_w, x_k, x_v, x_a, x_g = mixed  # [B, T, D] each
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)  # [B, T, D] each
        low_w, low_a = self.low(x_w, x_a, state)  # [B, T, D] each
        gate = torch.sigmoid(x_g @ self.g1) @ self.g2  # [B, T, D]
        v_first = call.shared.setdefault(FIRST, v)  # [B, T, D]
        if self.adds_first:
            low_v = (x_v @ self.v1) @ self.v2  # [B, T, D]
            v = torch.lerp(v, v_first, torch.sigmoid(low_v + self.v0).to(v.dtype))  # [B, T, D]
        vectors = Vectors(
            self.w0, self.a0, self.k_k, self.k_a, self.r_k, self.ln_x.weight, self.ln_x.bias
        )
        # On a GPU slices would only multiply the launches; kernels do there what fusing does here.
        form = attend_fused if x.device.type == "cpu" and x.shape[1] > 1 else attend
        projected, mask = (r, k, v, low_w, low_a, gate), real_positions(call.lengths, x)
        if WKV in self.place.demand:
            call.shared[WKV] = Memory(*written(projected, vectors, state["wkv"]), state["wkv"])
        if self.beside is not None:
            y, after = self.beside(projected, vectors, state, mask, self.eps)  # [B, T, D]
            return self.output(y), after | {"time_shift": shift}
        y, wkv = form(projected, vectors, state["wkv"], mask, self.eps)  # [B, T, D], [B, H, V, K]
        return self.output(y), {"wkv": wkv, "time_shift": shift}

    def low(self, x_w: Tensor, x_a: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """x_w, x_a [B, T, D] -> what is inside the sigmoids of decay and rate, but w0 and a0."""
        return torch.tanh(x_w @ self.w1) @ self.w2, (x_a @ self.a1) @ self.a2  # [B, T, D] each

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D], state, in few operations: they are what a small step costs.

        B and H count together as lanes.
        """
        apart = self.beside is not None or WKV in self.place.demand
        if apart or torch.is_autocast_enabled(x.device.type):
            return super().step(x, state, call)
        h, wkv, shift = x, state["wkv"], state["time_shift"]  # [B, D], [B, H, V, K], [B, D]
        mixed = torch.addcmul(h, shift.to(h.dtype) - h, self.mix[:, None])  # [6, B, D]
        x_r, x_w, x_k, x_v, x_a, x_g = mixed  # [B, D] each
        heads, batch, full = self.heads, len(h), wkv.dtype
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)  # [B, D] each
        low_w = torch.tanh(x_w @ self.w1) @ self.w2  # [B, D]
        decay = torch.exp(torch.sigmoid(low_w.to(full) + self.w0) * -DECAY)  # [B, D]
        a = torch.sigmoid(((x_a @ self.a1) @ self.a2).to(full) + self.a0)  # [B, D]
        gate = torch.sigmoid(x_g @ self.g1) @ self.g2  # [B, D]
        v_first = call.shared.setdefault(FIRST, v[:, None])[:, 0]  # [B, D]
        if self.adds_first:
            share = torch.sigmoid((x_v @ self.v1) @ self.v2 + self.v0)  # [B, D]
            v = torch.lerp(v, v_first, share)  # [B, D]
        k = k.to(full)  # [B, D]
        lanes = (batch * heads, 1, -1)
        kappa = F.normalize((k * self.k_k).view(lanes), dim=-1, eps=1e-12)  # [B H, 1, K]
        k = torch.addcmul(k, k, (a - 1) * self.k_a).view(lanes)  # [B H, 1, K]
        r, v_column = r.to(full).view(lanes), v.to(full).view(batch * heads, -1, 1)  # V in rows
        before = wkv.flatten(0, 1)  # [B H, V, K]
        removed = torch.bmm(before, -kappa.mT)  # [B H, V, 1]
        # [removed v] [a kappa; k] is both outer products at once.
        columns = torch.cat((removed, v_column), 2)  # [B H, V, 2]
        rows = torch.cat((kappa * a.view(lanes), k), 1)  # [B H, 2, K]
        after = torch.baddbmm(before * decay.view(lanes), columns, rows)  # [B H, V, K]
        y = torch.bmm(after, r.mT).view(batch, -1)  # [B, D]
        y = F.group_norm(
            y, heads, self.ln_x.weight.to(full), self.ln_x.bias.to(full), self.eps
        )  # [B, D]
        bonus = ((r * k).view(batch, heads, -1) * self.r_k).sum(-1).view(-1, 1, 1)  # [B H, 1, 1]
        y = torch.add(y, (bonus * v_column).view(batch, -1)) * gate  # [B, D]
        state = {"wkv": after.view_as(wkv), "time_shift": h.to(shift.dtype)}
        return self.output(y.to(h.dtype)), state

    def operations(self, context: int = 0) -> int:
        """Count nine per number of the WKV state."""
        return 9 * self.place.width * self.config.head_size

    def training_form(self) -> str:
        """Name the scan's form, and why it is not the Triton kernels where they do not run."""
        missing = triton_missing()
        if self.w0.is_cuda and not missing:
            return "WKV-7 in Triton kernels"
        return f"WKV-7 in chunks, PyTorch ({missing or 'not on the GPU'})"

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-LM's x070 does (``train_temp``, after both of its stages).

        Draws from torch's generator.
        """
        width, size = self.place.width, self.config.head_size
        layer, layers = self.place.layer, self.place.layers
        depth = layer / max(1, layers - 1)
        height = 1 - layer / layers
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
        if self.adds_first:
            self.v0.copy_(0.73 - 0.4 * line)
            pairs.append((self.v1, self.v2))
        for down, up in pairs:
            nn.init.zeros_(down)
            _orthogonal(up, 0.1 * math.sqrt(max(1.0, up.shape[0] / up.shape[1])))
        self.k_k.copy_(0.71 - 0.1 * line)
        nn.init.constant_(self.k_a, 1.02)
        nn.init.constant_(self.r_k, -0.04)
        nn.init.constant_(self.ln_x.weight, ((1 + layer) / layers) ** 0.7)
        _orthogonal(self.receptance.weight, 1.0)
        _orthogonal(self.key.weight, 0.1)
        _orthogonal(self.value.weight, 1.0)
        nn.init.zeros_(self.output.weight)


class ChannelMix(Mixer):
    """The feed-forward half of a block; it sees one position and the one before it.

    State: ``channel_shift`` [B, D], the last vector.
    """

    Config = ChannelMixConfig
    targets = ("key", "value")
    vectors = ("mix",)
    recipe = write_channel_mix

    def __init__(self, config: ChannelMixConfig, place: Place) -> None:
        super().__init__(config, place)
        inner = config.width or place.ffn_width or 4 * place.width
        self.mix = nn.Parameter(torch.empty(1, place.width))
        """Share of the previous vector: RWKV-LM's x_k."""
        self.key = nn.Linear(place.width, inner, bias=False)
        self.value = nn.Linear(inner, place.width, bias=False)
        if place.start:
            self.reset_parameters()

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Return zeros."""
        shift = torch.zeros(batch, self.place.width, device=device, dtype=dtype)  # [B, D]
        return {"channel_shift": shift}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state."""
        (x_k,), shift = _mixed(x, state["channel_shift"], self.mix, call.lengths)  # [B, T, D]
        inner = self.key(x_k)  # [B, T, F]
        inner = squared_relu(inner) if fused(inner) else _SquaredReLU.apply(inner)  # [B, T, F]
        return self.value(inner), {"channel_shift": shift}

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D], state."""
        if torch.is_autocast_enabled(x.device.type):
            return super().step(x, state, call)
        shift = state["channel_shift"]  # [B, D]
        x_k = torch.addcmul(x, shift.to(x.dtype) - x, self.mix[0])  # [B, D]
        y = self.value(torch.relu(self.key(x_k)).square())  # [B, D]
        return y, {"channel_shift": x.to(shift.dtype)}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-LM does. Draws from torch's generator."""
        width, height = self.place.width, 1 - self.place.layer / self.place.layers
        share = torch.arange(width, dtype=torch.float32) / width  # [D]
        self.mix.copy_(1 - share ** (height**4))
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


def check_heads(width: int, size: int) -> int:
    """Return the number of heads. Raises ``ConfigError`` when heads do not fill the width."""
    if width < 1 or size < 1 or width % size:
        raise ConfigError(
            f"Width {width} is not a multiple of head size {size}.",
            "The backbone slot of the system configuration.",
            "Change width or head_size so that the heads fill the width.",
        )
    return width // size


def _mixed(
    h: Tensor, shift: Tensor, rows: Tensor, lengths: Tensor | None
) -> tuple[list[Tensor], Tensor]:
    """h + (before - h) * row for every row, in the type the matrix products want; next shift."""
    autocast = torch.is_autocast_enabled(h.device.type)
    low = torch.get_autocast_dtype(h.device.type) if autocast else h.dtype
    if fused(h) and lengths is None:
        return mix(h, shift, rows, low), h[:, -1].clone()
    joined, after = last_inputs(shift[:, None], h, lengths)  # [B, 1 + T, D], [B, 1, D]
    if fused(h):
        return mix(h, shift, rows, low), after[:, 0]
    h = h.to(low)  # [B, T, D]
    difference = joined[:, :-1].to(low) - h  # [B, T, D]
    return [torch.addcmul(h, difference, row) for row in rows.to(low)], after[:, 0]


def _orthogonal(weight: Tensor, gain: float) -> None:
    # A backbone on the meta device has a shape and nothing to fill.
    if not weight.is_meta:
        nn.init.orthogonal_(weight, gain=gain)
