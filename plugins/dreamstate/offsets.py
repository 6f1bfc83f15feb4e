"""RWKV-7's time mixing with parameters that every sequence may move for itself.

w0, the bias of the decay, and a0, that of the in-context learning rate, are w0 + delta.w0 and
a0 + delta.a0: parts of the state that no position changes. They are zero unless something learned
or drew them, as state tuning and the generator beside this file do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.stack.mixer import Call, Mixer
from wishbone.plugins.rwkv7.layers import TimeMix

OFFSETS = ("delta.w0", "delta.a0")
"""Names in the state; [B, D] each."""


class OffsetTimeMix(TimeMix):
    """State: that of RWKV-7's time mixing, and ``OFFSETS``."""

    recipe = None

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Return zeros."""
        state = super().init_state(batch, device, dtype)
        width = self.place.width
        return state | {n: torch.zeros(batch, width, device=device, dtype=dtype) for n in OFFSETS}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state."""
        y, after = super().forward(x, state, call)
        return y, after | {name: state[name].clone() for name in OFFSETS}

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D], state, by ``forward``: the faster step reads w0 and a0 alone."""
        return Mixer.step(self, x, state, call)

    def low(self, x_w: Tensor, x_a: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Add each row's offsets, [B, T, D] each."""
        pairs = zip(super().low(x_w, x_a, state), OFFSETS, strict=True)
        low_w, low_a = (low + state[name][:, None].to(low.dtype) for low, name in pairs)
        return low_w, low_a
