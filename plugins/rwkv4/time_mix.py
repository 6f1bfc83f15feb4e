"""Time mixing of RWKV-4 (arXiv 2305.13048, equations 11 to 18).

With x' the position before x, and m the share of x itself (RWKV-6 and later say it of x')::

    x_z = m_z x + (1 - m_z) x'                                z in k, v, r
    k, v, r = W_k x_k, W_v x_v, W_r x_r                       w = -exp(time_decay), u = time_first
    wkv_t = (sum_{s<t} e^{(t-1-s) w + k_s} v_s + e^{u + k_t} v_t) / (the same without v)
    y = W_o (sigmoid(r) wkv)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs, memory_dtype
from wishbone.kernels.linear_scan import NEVER, last_state, weighted_mean
from wishbone.plugins.rwkv4.config import RWKV4Config


class TimeMix(Mixer):
    """A mean of values, and the logarithm of its weight, in every channel."""

    Config = RWKV4Config
    memory = ("mean", "log_weight")
    targets = ("key", "value", "receptance", "output")
    fast = ("time_decay", "time_first")
    vectors = ("mix",)

    def __init__(self, config: RWKV4Config, place: Place) -> None:
        super().__init__(config, place)
        width = place.width
        self.mix = nn.Parameter(torch.empty(3, width))
        """Share of the position itself in k, v, r: RWKV-LM's time_mix_k, _v, _r."""
        self.time_decay = nn.Parameter(torch.empty(width))
        self.time_first = nn.Parameter(torch.empty(width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.reset_parameters()

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """A mean of nothing, and a position of zeros before the first."""
        shape, kind = (batch, self.place.width), memory_dtype(dtype)
        return {
            "mean": torch.zeros(shape, device=device, dtype=kind),
            "log_weight": torch.full(shape, NEVER, device=device, dtype=kind),
            "time_shift": torch.zeros(shape, device=device, dtype=dtype),
        }

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        joined, shift = last_inputs(state["time_shift"][:, None], x, call.lengths)
        before = joined[:, :-1]  # [B, T, D]
        x_k, x_v, x_r = (torch.lerp(before, x, mix.to(x.dtype)) for mix in self.mix)  # [B, T, D]
        start, kind = (state["mean"], state["log_weight"]), state["mean"].dtype  # [B, D] each
        k, v = self.key(x_k).to(kind), self.value(x_v).to(kind)  # [B, T, D]
        gate = torch.sigmoid(self.receptance(x_r))  # [B, T, D]
        decay = -self.time_decay.to(kind).exp()  # [D]
        means, weights = weighted_mean(k, v, decay, start)  # [B, T, D]
        past, past_weight = (
            torch.cat([first[:, None], after[:, :-1]], 1)  # [B, T, D]
            for first, after in zip(start, (means, weights), strict=True)
        )
        share = torch.sigmoid(self.time_first.to(kind) + k - past_weight)  # [B, T, D]
        y = self.output(gate * torch.lerp(past, v, share).to(gate.dtype))  # [B, T, D]
        ends = (
            last_state(means, start[0], call.lengths),
            last_state(weights, start[1], call.lengths),
        )
        return y, {"mean": ends[0], "log_weight": ends[1], "time_shift": shift[:, 0]}

    def operations(self, context: int = 0) -> int:
        """Count the mean and the bonus, element by element."""
        return 12 * self.place.width

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-LM does (v4neo, after both of its stages)."""
        width, depth = self.place.width, self.place.layer / max(1, self.place.layers - 1)
        height = 1 - self.place.layer / self.place.layers
        n = torch.arange(width, dtype=torch.float32)  # [D]
        ramp = (n / width) ** height  # [D]
        self.mix.copy_(torch.stack([ramp, ramp + 0.3 * depth, ramp**0.5]))
        self.time_decay.copy_(-5 + 8 * (n / max(1, width - 1)) ** (0.7 + 1.3 * depth))
        self.time_first.copy_(math.log(0.3) + 0.5 * ((n + 1) % 3 - 1))
        nn.init.orthogonal_(self.value.weight)
        for linear in (self.key, self.receptance, self.output):
            nn.init.zeros_(linear.weight)
