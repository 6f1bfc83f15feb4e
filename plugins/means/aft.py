"""AFT-simple (arXiv 2105.14103, section 3.1 with w = 0): attention free of queries and heads.

y_t = W_o (sigmoid(W_q x_t) * sum_{s<=t} e^{k_s} v_s / sum_{s<=t} e^{k_s})      k, v = W_k x, W_v x
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import OptionalSize
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype
from wishbone.kernels.linear_scan import NEVER, last_state, weighted_mean
from wishbone.plugins.initial_weights import start_small


@dataclass
class AFTConfig:
    """Size of the state."""

    size: OptionalSize = 0
    """Channels of the mean; 0 means the width."""


class AFT(Mixer):
    """A mean of values, and the logarithm of its weight, in every channel."""

    Config = AFTConfig
    memory = ("mean", "log_weight")
    targets = ("query", "key", "value", "output")

    def __init__(self, config: AFTConfig, place: Place) -> None:
        super().__init__(config, place)
        self.size = config.size or place.width
        """E."""
        self.query = nn.Linear(place.width, self.size, bias=False)
        self.key = nn.Linear(place.width, self.size, bias=False)
        self.value = nn.Linear(place.width, self.size, bias=False)
        self.output = nn.Linear(self.size, place.width, bias=False)
        self.reset_parameters()

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """A mean of nothing."""
        shape, kind = (batch, self.size), memory_dtype(dtype)
        return {
            "mean": torch.zeros(shape, device=device, dtype=kind),
            "log_weight": torch.full(shape, NEVER, device=device, dtype=kind),
        }

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        start = state["mean"], state["log_weight"]  # [B, E] each
        kind = state["mean"].dtype
        k, v = self.key(x).to(kind), self.value(x).to(kind)  # [B, T, E] each
        means, weights = weighted_mean(k, v, None, start)  # [B, T, E] each
        gate = torch.sigmoid(self.query(x))  # [B, T, E]
        return self.output(gate * means.to(gate.dtype)), {
            "mean": last_state(means, start[0], call.lengths),
            "log_weight": last_state(weights, start[1], call.lengths),
        }

    def operations(self, context: int = 0) -> int:
        """Count the mean, element by element."""
        return 9 * self.size

    def reset_parameters(self) -> None:
        """Draw small normal weights; the paper gives none."""
        start_small(self.place, self.query, self.key, self.value, output=self.output)
