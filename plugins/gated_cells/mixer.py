"""LSTM (Hochreiter and Schmidhuber 1997, with forget gate) and GRU (arXiv 1406.1078) of PyTorch.

Their gates see the state before them, so positions are computed one after another. y = W_o h.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import OptionalSize
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype


@dataclass
class CellConfig:
    """Size of the state."""

    size: OptionalSize = 0
    """Numbers of the state (of each of both, for LSTM); 0 means the width."""


class LSTM(Mixer):
    """A cell that is added to, behind three gates."""

    Config = CellConfig
    memory: tuple[str, ...] = ("hidden", "cell")
    targets = ("output",)
    kind: type[nn.RNNBase] = nn.LSTM

    def __init__(self, config: CellConfig, place: Place) -> None:
        super().__init__(config, place)
        self.size = config.size or place.width
        """E."""
        self.cells = self.kind(place.width, self.size, batch_first=True)
        self.output = nn.Linear(self.size, place.width, bias=False)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """All zeros."""
        kind = memory_dtype(dtype)
        return {n: torch.zeros(batch, self.size, device=device, dtype=kind) for n in self.memory}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        kind = self.cells.weight_ih_l0.dtype
        before = [state[name].to(kind)[None].contiguous() for name in self.memory]  # [1, B, E]
        h, after = self._run(x.to(kind), before, call.lengths)  # [B, T, E], [1, B, E] each
        if call.lengths is not None:
            some = call.lengths.to(x.device)[:, None] > 0  # [B, 1]
            after = [torch.where(some, a, b) for a, b in zip(after, before, strict=True)]
        names = zip(self.memory, after, strict=True)
        later = {name: a[0].to(state[name].dtype, copy=True) for name, a in names}
        return self.output(h.to(x.dtype)), later

    def _run(
        self, x: Tensor, before: list[Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """x [B, T, D] -> h [B, T, E] and the state [1, B, E] after the last real position."""
        given = tuple(before) if len(before) > 1 else before[0]
        inputs = x
        if lengths is not None:
            # A row without positions is run for one; its state is put back above.
            counts = lengths.clamp_min(1).cpu()  # [B]
            inputs = pack_padded_sequence(x, counts, batch_first=True, enforce_sorted=False)
        h, after = self.cells(inputs, given)
        if lengths is not None:
            h, _ = pad_packed_sequence(h, batch_first=True, total_length=x.shape[1])  # [B, T, E]
        return h, list(after) if isinstance(after, tuple) else [after]

    def operations(self, context: int = 0) -> int:
        """Count the gates, element by element."""
        return 10 * self.size


class GRU(LSTM):
    """One state, behind two gates."""

    memory = ("hidden",)
    kind = nn.GRU
