"""What a stream of the flow remembers, so that its past is never computed again.

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
    """Keys above values [B, 2 H, T, D] in one buffer that grows by doubling.

    ``fork`` shares the buffer; whoever adds to a shared one copies it first.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._begin = self._end = 0
        self._shared = False

    def __len__(self) -> int:
        return self._end - self._begin

    def append(self, new: Tensor, most: int = -1) -> Tensor:
        """Add new [B, 2 H, n, D] -> all of [B, 2 H, T, D], of which at most ``most`` are old."""
        if most >= 0:
            self._begin = max(self._begin, self._end - most)
        old, count = len(self), new.shape[2]
        if self._buffer is None or self._shared or self._end + count > self._buffer.shape[2]:
            self._move(new, old + count)
        assert self._buffer is not None
        self._buffer[:, :, self._end : self._end + count] = new
        self._end += count
        return self._buffer[:, :, self._begin : self._end]

    def _move(self, like: Tensor, wanted: int) -> None:
        """Into a fresh buffer with room for twice what is ``wanted`` now."""
        batch, heads, _, width = like.shape
        buffer = like.new_empty(batch, heads, 2 * wanted, width)
        old = len(self)
        if self._buffer is not None:
            buffer[:, :, :old] = self._buffer[:, :, self._begin : self._end]
        self._buffer, self._begin, self._end, self._shared = buffer, 0, old, False

    def fork(self) -> Rows:
        """The same rows for two owners, without a copy for now."""
        other = Rows()
        other._buffer, other._begin, other._end = self._buffer, self._begin, self._end
        self._shared = other._shared = self._buffer is not None
        return other

    def numbers(self) -> int:
        """Numbers that are in use, not those of the room to grow."""
        if self._buffer is None:
            return 0
        batch, heads, _, width = self._buffer.shape
        return batch * heads * width * len(self)


class Memory:
    """All that one pass through layers leaves behind; a layer finds its own by itself."""

    def __init__(self, left: int = -1) -> None:
        self.left = left
        """Positions before the current ones that an attention may see; -1 for all."""
        self._rows: dict[Hashable, Rows] = {}
        self._ends: dict[Hashable, Tensor] = {}

    def past(self, layer: nn.Module) -> int:
        """Positions that ``layer`` would see before the next ones."""
        held = len(self._rows[layer]) if layer in self._rows else 0
        return held if self.left < 0 else min(held, self.left)

    def attend(self, layer: nn.Module, both: Tensor) -> Tensor:
        """Keys above values [B, 2 H, n, D] -> all of ``layer`` so far and these [B, 2 H, T, D]."""
        return self._rows.setdefault(layer, Rows()).append(both, self.left)

    def continued(self, layer: nn.Module, x: Tensor, reach: int) -> Tensor:
        """x [B, n, C] -> behind the last ``reach`` inputs of ``layer``, zeros before the first."""
        before = self._ends.get(layer)
        x = F.pad(x, (0, 0, reach, 0)) if before is None else torch.cat([before, x], dim=1)
        # a copy, because a view would hold all of x
        self._ends[layer] = x[:, x.shape[1] - reach :].clone()
        return x

    def fork(self) -> Memory:
        """A memory that goes on by itself from here."""
        other = Memory(self.left)
        other._rows = {layer: rows.fork() for layer, rows in self._rows.items()}
        other._ends = dict(self._ends)
        return other

    def numbers(self) -> int:
        """How many numbers are remembered."""
        ends = sum(tensor.numel() for tensor in self._ends.values())
        return ends + sum(rows.numbers() for rows in self._rows.values())


def continued(layer: nn.Module, x: Tensor, reach: int, memory: Memory | None) -> Tensor:
    """x [B, n, C] behind ``reach`` inputs that came before, which are zeros without a memory."""
    return F.pad(x, (0, 0, reach, 0)) if memory is None else memory.continued(layer, x, reach)


def heads_of(x: Tensor, heads: int) -> Tensor:
    """x [B, n, H D] -> [B, H, n, D]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def chunk_mask(length: int, chunk: int, left: int = -1) -> Tensor:
    """[T, T], true where row i sees column j: up to the end of i's own chunk.

    ``left`` is how many positions before its own chunk it sees, -1 for all.
    """
    at = torch.arange(length)
    begin = at - at % chunk
    sees = at[None, :] < (begin + chunk)[:, None]
    return sees if left < 0 else sees & (at[None, :] >= (begin - left)[:, None])
