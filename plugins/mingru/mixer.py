"""minGRU and minLSTM (arXiv 2410.01201, appendix B): gates that do not see the state, so a scan.

With g(x) = x + 1/2 for x >= 0, else sigmoid(x), so that every state is positive::

    minGRU     z = sigmoid(W_z x)                      h = (1 - z) h + z g(W_h x)
    minLSTM    f = sigmoid(W_f x), i = sigmoid(W_i x)  h = f/(f + i) h + i/(f + i) g(W_h x)
    y = W_o h
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Positive
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype
from wishbone.kernels.linear_scan import last_state, linear_scan


@dataclass
class MinConfig:
    """Size of the state."""

    expand: Positive = 1.5
    """Numbers of the state as a multiple of the width."""


class MinGRU(Mixer):
    """minGRU: one gate says how much of the state a candidate replaces."""

    Config = MinConfig
    memory = ("hidden",)
    targets = ("inputs", "output")
    parts = 2
    """Projections of x: candidate and gates."""

    def __init__(self, config: MinConfig, place: Place) -> None:
        super().__init__(config, place)
        self.size = max(1, round(config.expand * place.width))
        """E."""
        self.inputs = nn.Linear(place.width, self.parts * self.size, bias=False)
        self.output = nn.Linear(self.size, place.width, bias=False)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """A state of zeros."""
        kind = memory_dtype(dtype)
        return {"hidden": torch.zeros(batch, self.size, device=device, dtype=kind)}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        start = state["hidden"]  # [B, E]
        candidate, *gates = self.inputs(x).to(start.dtype).chunk(self.parts, -1)  # [B, T, E] each
        stay, enter = self.shares(*gates)  # [B, T, E]
        h = linear_scan(stay, enter * positive(candidate), start)  # [B, T, E]
        return self.output(h.to(x.dtype)), {"hidden": last_state(h, start, call.lengths)}

    def shares(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares [B, T, E] of the state and of the candidate; they add up to 1."""
        return torch.sigmoid(-gate), torch.sigmoid(gate)

    def operations(self, context: int = 0) -> int:
        """Two of every number of the state."""
        return 2 * self.size


class MinLSTM(MinGRU):
    """minLSTM: what is forgotten and what enters have a gate each, scaled to add up to 1."""

    parts = 3

    def shares(self, gate: Tensor, entry: Tensor) -> tuple[Tensor, Tensor]:
        """Return f / (f + i) and i / (f + i) [B, T, E], from the logarithms of both."""
        lead = F.logsigmoid(gate) - F.logsigmoid(entry)  # [B, T, E]
        return torch.sigmoid(lead), torch.sigmoid(-lead)


def positive(x: Tensor) -> Tensor:
    """Return g(x): x + 1/2 above zero, the logistic function below; steady, and never negative."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))
