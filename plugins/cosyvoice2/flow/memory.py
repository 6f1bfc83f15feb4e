"""Memory of a stream of the flow, so that its past is never computed again.

Under the chunk mask a frame sees the frames of its own chunk and of chunks before it. So a chunk
that is complete needs nothing of what follows, and what follows needs of it only its keys and
values, and the last inputs of the convolutions.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Rows:
    """Keys above values [B, 2 H, T, d] in one buffer that grows by doubling.

    ``fork`` shares the buffer; ``append`` to a shared one copies it first.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._begin = self._end = 0
        self._shared = False

    def __len__(self) -> int:
        return self._end - self._begin

    def append(self, new: Tensor, most: int = -1) -> Tensor:
        """Add new [B, 2 H, n, d] -> all of [B, 2 H, T, d], of which at most ``most`` are old."""
        if most >= 0:
            self._begin = max(self._begin, self._end - most)
        old, count = len(self), new.shape[2]
        if self._buffer is None or self._shared or self._end + count > self._buffer.shape[2]:
            self._move(new, old + count)
        assert self._buffer is not None
        self._buffer[:, :, self._end : self._end + count] = new  # [B, 2 H, n, d]
        self._end += count
        return self._buffer[:, :, self._begin : self._end]  # [B, 2 H, T, d]

    def _move(self, like: Tensor, length: int) -> None:
        """Move the rows into a new buffer with room for twice the ``length`` needed now."""
        batch, heads, _, width = like.shape
        buffer = like.new_empty(batch, heads, 2 * length, width)  # [B, 2 H, 2 length, d]
        old = len(self)
        if self._buffer is not None:
            buffer[:, :, :old] = self._buffer[:, :, self._begin : self._end]  # [B, 2 H, T, d]
        self._buffer, self._begin, self._end, self._shared = buffer, 0, old, False

    def fork(self) -> Rows:
        """Give the same rows to a second owner, without a copy for now."""
        other = Rows()
        other._buffer, other._begin, other._end = self._buffer, self._begin, self._end
        self._shared = other._shared = self._buffer is not None
        return other

    def numbers(self) -> int:
        """Count the numbers in use, not the room to grow."""
        if self._buffer is None:
            return 0
        batch, heads, _, width = self._buffer.shape
        return batch * heads * width * len(self)


class Memory:
    """Keys, values and last inputs that one pass through the layers leaves behind, by layer."""

    def __init__(self, left_context: int = -1) -> None:
        self.left_context = left_context
        """Positions before the current ones that an attention may see; -1 for all."""
        self._rows: dict[Hashable, Rows] = {}
        self._ends: dict[Hashable, Tensor] = {}

    def past(self, layer: nn.Module) -> int:
        """Count the positions that ``layer`` would see before the next ones."""
        stored = len(self._rows[layer]) if layer in self._rows else 0
        return stored if self.left_context < 0 else min(stored, self.left_context)

    def attend(self, layer: nn.Module, both: Tensor) -> Tensor:
        """Add keys above values [B, 2 H, n, d] -> all of ``layer`` up to these [B, 2 H, T, d]."""
        return self._rows.setdefault(layer, Rows()).append(
            both, self.left_context
        )  # [B, 2 H, T, d]

    def continued(self, layer: nn.Module, x: Tensor, reach: int) -> Tensor:
        """Put the last ``reach`` inputs of ``layer``, at first zeros, before x [B, n, C]."""
        before = self._ends.get(layer)  # [B, reach, C]
        if before is None:
            x = F.pad(x, (0, 0, reach, 0))  # [B, reach + n, C]
        else:
            x = torch.cat([before, x], dim=1)  # [B, reach + n, C]
        # a copy, because a view would hold all of x
        self._ends[layer] = x[:, x.shape[1] - reach :].clone()  # [B, reach, C]
        return x

    def fork(self) -> Memory:
        """Make a memory that goes on by itself from here."""
        other = Memory(self.left_context)
        other._rows = {layer: rows.fork() for layer, rows in self._rows.items()}
        other._ends = dict(self._ends)
        return other

    def numbers(self) -> int:
        """Count the numbers that are remembered."""
        ends = sum(tensor.numel() for tensor in self._ends.values())
        return ends + sum(rows.numbers() for rows in self._rows.values())


def continued(layer: nn.Module, x: Tensor, reach: int, memory: Memory | None) -> Tensor:
    """Put the ``reach`` inputs before x [B, n, C] in front; zeros without a memory."""
    if memory is None:
        return F.pad(x, (0, 0, reach, 0))  # [B, reach + n, C]
    return memory.continued(layer, x, reach)  # [B, reach + n, C]


def heads_of(x: Tensor, heads: int) -> Tensor:
    """Split x [B, n, H d] -> [B, H, n, d]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # [B, H, n, d]


def chunk_mask(length: int, chunk: int, left_context: int = -1) -> Tensor:
    """Make the mask [T, T], true where row i sees column j: up to the end of i's own chunk.

    ``left_context`` counts the positions before its own chunk that it sees, -1 for all
    (``subsequent_chunk_mask`` in cosyvoice/utils/mask.py).
    """
    at = torch.arange(length)  # [T]
    begin = at - at % chunk  # [T]
    sees = at[None, :] < (begin + chunk)[:, None]  # [T, T]
    if left_context < 0:
        return sees
    return sees & (at[None, :] >= (begin - left_context)[:, None])  # [T, T]
