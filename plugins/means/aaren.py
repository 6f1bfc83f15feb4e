"""Aaren (arXiv 2405.13956, section 3.3): attention by a learned query, the same at every position.

y_t = W_o concat_h sum_{s<=t} softmax_s(q_h . k_s / sqrt(K)) v_s        k, v = W_k x, W_v x
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype
from wishbone.kernels.linear_scan import NEVER, last_state, weighted_mean
from wishbone.plugins.initial_weights import start_small


@dataclass
class AarenConfig:
    """Heads."""

    heads: Size = 4
    """Queries; each has width / heads numbers."""


class Aaren(Mixer):
    """A mean of values in every head, and the logarithm of its weight."""

    Config = AarenConfig
    memory = ("mean", "log_weight")
    targets = ("key", "value", "output")
    vectors = ("query",)

    def __init__(self, config: AarenConfig, place: Place) -> None:
        super().__init__(config, place)
        if place.width % config.heads:
            raise ConfigError(
                f"A width of {place.width} does not divide into {config.heads} heads.",
                "the mixer 'aaren' of the stack",
                "Change its heads, or the width.",
            )
        self.heads, self.size = config.heads, place.width // config.heads
        self.query = nn.Parameter(torch.empty(self.heads, self.size))
        self.key = nn.Linear(place.width, place.width, bias=False)
        self.value = nn.Linear(place.width, place.width, bias=False)
        self.output = nn.Linear(place.width, place.width, bias=False)
        self.reset_parameters()

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """A mean of nothing."""
        kind = memory_dtype(dtype)
        return {
            "mean": torch.zeros(batch, self.heads, self.size, device=device, dtype=kind),
            "log_weight": torch.full((batch, self.heads), NEVER, device=device, dtype=kind),
        }

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        mean, weight = state["mean"], state["log_weight"]  # [B, H, K], [B, H]
        split, kind = (self.heads, self.size), mean.dtype
        keys = self.key(x).unflatten(-1, split).to(kind)  # [B, T, H, K]
        values = self.value(x).unflatten(-1, split).to(kind)  # [B, T, H, K]
        scores = (keys * self.query).sum(-1, keepdim=True) * self.size**-0.5  # [B, T, H, 1]
        start = mean, weight[..., None].expand_as(mean)  # [B, H, K] each
        means, weights = weighted_mean(scores.expand_as(values), values, None, start)
        y = self.output(means.flatten(2).to(x.dtype))  # [B, T, D]
        return y, {
            "mean": last_state(means, mean, call.lengths),
            "log_weight": last_state(weights[..., 0], weight, call.lengths),
        }

    def operations(self, context: int = 0) -> int:
        """Count scores and means, element by element."""
        return 10 * self.place.width

    def reset_parameters(self) -> None:
        """Draw queries of unit variance and small normal weights; the paper gives none."""
        nn.init.normal_(self.query)
        start_small(self.place, self.key, self.value, output=self.output)
