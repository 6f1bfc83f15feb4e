"""mLSTM (arXiv 2405.04517, equations 19 to 27) in the block of xLSTM 7B (arXiv 2503.13427).

i, f = W_i x + b_i, W_f x + b_f, softly capped      log f = logsigmoid(f)
C = f C + e^i v k'        n = f n + e^i k        q, k of half the width
y = W_o (LayerNorm((C q K^-1/2) / max(abs(n . q) K^-1/2, 1)) * sigmoid(W_z x))

e^i may be any size, so C and n are kept divided by e^m, with
m_t = max(log f + m_{t-1}, i_t). n is one more row of C, whose value is always 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Positive, Size
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.core.contract.stack.rows import memory_dtype
from wishbone.kernels.recurrence import recurrence
from wishbone.plugins.initial_weights import start_small
from wishbone.plugins.matrix_memory import MatrixMixer, heads_of
from wishbone.plugins.stack.engines.recipe import Recipe, Row

EPS = 1e-6
"""Added to the divisor, and inside the norm."""


@dataclass
class MLSTMConfig:
    """Sizes; keys are half as long as values."""

    head_size: Size = 64
    """V, an even number of numbers of a value; the heads fill the width."""
    cap: Positive = 15.0
    """Gates stay between minus and plus this, before their exponential or sigmoid."""


class MLSTM(MatrixMixer):
    """Matrices [V + 1, V / 2], and the logarithm m of their scale."""

    Config = MLSTMConfig
    memory = ("matrix", "log_scale")
    targets = ("qkv", "output_gate", "output")

    def __init__(self, config: MLSTMConfig, place: Place) -> None:
        heads, keys = heads_of(place, config.head_size, "mlstm"), config.head_size // 2
        super().__init__(config, place, (heads, config.head_size + 1, keys))
        self.sizes = (heads * keys, heads * keys, place.width)
        self.qkv = nn.Linear(place.width, sum(self.sizes), bias=False)
        self.gates = nn.Linear(place.width, 2 * heads)
        """Rows of i, then of f."""
        self.output_gate = nn.Linear(place.width, place.width, bias=False)
        self.norm = nn.Parameter(torch.empty(place.width))
        self.output = nn.Linear(place.width, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> MLSTMConfig:
        """Three heads of a small width."""
        return MLSTMConfig(head_size=16)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """All zeros: nothing is remembered, at scale 1."""
        scale = torch.zeros(batch, self.shape[0], device=device, dtype=memory_dtype(dtype))
        return {**super().init_state(batch, device, dtype), "log_scale": scale}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        heads, _, keys = self.shape
        matrix, first = state["matrix"], state["log_scale"]  # [B, H, V + 1, K], [B, H]
        kind = matrix.dtype
        parts = self.qkv(x).split(self.sizes, -1)
        q, k, v = (z.unflatten(-1, (heads, -1)).to(kind) for z in parts)  # [B, T, H, K], with V
        cap = self.config.cap
        gates = cap * torch.tanh(self.gates(x).to(kind) / cap)  # [B, T, 2 H]
        enter, stay = gates[..., :heads], F.logsigmoid(gates[..., heads:])  # [B, T, H] each
        sums = stay.cumsum(1)  # [B, T, H]
        scale = sums + torch.maximum((enter - sums).cummax(1).values, first[:, None])  # m
        before = torch.cat([first[:, None], scale[:, :-1]], 1)  # [B, T, H]
        g = stay + before - scale  # [B, T, H]
        # At most 0 but for rounding, which must not stop the gradient.
        g = g - g.detach().clamp(min=0)  # [B, T, H]
        k = k * (enter - scale).exp()[..., None]  # [B, T, H, K]
        v = F.pad(v, (0, 1), value=1.0)  # [B, T, H, V + 1]
        y, matrix = recurrence(q * keys**-0.5, k, v, g, state=matrix, lengths=call.lengths)
        least = torch.exp(-scale)[..., None]  # [B, T, H, 1]
        y = y[..., :-1] / (torch.maximum(y[..., -1:].abs(), least) + EPS)  # [B, T, H, V]
        y = F.layer_norm(y, y.shape[-1:], eps=EPS).flatten(2) * self.norm.to(kind)  # [B, T, D]
        y = y.to(x.dtype) * torch.sigmoid(self.output_gate(x))  # [B, T, D]
        return self.output(y), {"matrix": matrix, "log_scale": _last(scale, first, call.lengths)}

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        heads, _, keys = self.shape
        q, k, v = recipe.linear(x, self.qkv).split(*self.sizes)
        cap, raw = self.config.cap, recipe.linear(x, self.gates, careful=True)
        gates = recipe.map("tanh", raw, scale=1 / cap, factor=cap)
        enter, stay = gates.split(heads, heads)
        kept = recipe.pair("add", recipe.map("log_sigmoid", stay), recipe.load("log_scale", heads))
        scale = recipe.pair("larger", kept, enter)  # m
        recipe.store("log_scale", scale)
        g = recipe.pair("subtract", kept, scale)
        k = recipe.pair("multiply", k, recipe.map("exp", recipe.pair("subtract", enter, scale)))
        q = recipe.map("same", q, factor=keys**-0.5)
        y = recipe.divide(recipe.memory("matrix", self.shape, q, k, v, g), heads, EPS, scale)
        y = recipe.norm(y, self.norm, kind="layer", eps=EPS, groups=heads)
        gate = recipe.map("sigmoid", recipe.linear(x, self.output_gate))
        return recipe.linear(recipe.pair("multiply", y, gate), self.output)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the package xlstm does: long memory, biases of f from 3 to 6 over the heads."""
        start_small(self.place, self.qkv, self.output_gate, output=self.output)
        nn.init.ones_(self.norm)
        nn.init.zeros_(self.gates.weight)
        enter, stay = self.gates.bias.chunk(2)
        nn.init.normal_(enter, std=0.1)
        stay.copy_(torch.linspace(3, 6, len(stay)))


def _last(scale: Tensor, first: Tensor, lengths: Tensor | None) -> Tensor:
    """scale [B, T, H], first [B, H] -> scale after the last real position [B, H]."""
    if lengths is None:
        return scale[:, -1].clone()
    joined = torch.cat([first[:, None], scale], 1)  # [B, 1 + T, H]
    return joined[torch.arange(len(first), device=first.device), lengths]
