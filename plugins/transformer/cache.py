"""The cache of keys and values: packed rows, mixed lengths, and appending without copying.

Shapes: B sequences, G heads of K numbers, S positions of the longest row, C slots of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Angles = Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor] | None]


@dataclass
class Past:
    """The plan that all blocks of one call share: where new positions go, what they may see."""

    angles: tuple[Tensor, Tensor] | None
    """Cosines and sines [1 or B, T, K/2] of the new positions; None for attention without."""
    used: int
    """Slots of the longest row before this call."""
    length: Tensor | None
    """[B] slots of each row before this call, where rows differ."""
    length_after: Tensor
    """[B] slots of each row after this call."""
    causal: bool = False
    """The new positions see themselves and those before, and there is no cache."""
    bias: Tensor | None = None
    """True where a position sees a slot, [T, S] or [B, 1, T, S]; None where ``causal`` says it."""
    source: Tensor | None = None
    """[B, 1, S, 1] slot of (old, new) joined that goes to each slot, where rows differ."""
    alive: Tensor | None = None
    """[B, 1, S, 1] slots that hold a real position afterwards; None where all do."""

    def join(self, old: Tensor | None, new: Tensor) -> Tensor:
        """old [B, G, S', K] and new [B, G, T, K] -> [B, G, S, K], rows packed."""
        if old is None or self.used == 0:
            return new.contiguous() if old is None else new.to(old.dtype).contiguous()
        joined = torch.cat((old[:, :, : self.used], new.to(old.dtype)), dim=2)  # [B, G, S, K]
        if self.source is None:
            return joined
        return joined.gather(2, self.source.expand(-1, joined.shape[1], -1, joined.shape[3]))

    def trim(self, joined: Tensor) -> Tensor:
        """Cut [B, G, S, K] to the longest row and clear what lies behind each row."""
        if self.alive is None:
            return joined
        return torch.where(self.alive, joined[:, :, : self.alive.shape[2]], 0)


def plan_past(x: Tensor, before: Tensor | None, count: Tensor | None, angles: Angles) -> Past:
    """Plan a call of T positions x [B, T, D], of which row b keeps the first ``count[b]``.

    before [B] positions of each row came earlier; None means none in any.
    """
    batch, length, _ = x.shape
    new = torch.arange(length, device=x.device)  # [T]
    used, even = (0, True) if before is None else _extent(before)
    before = x.new_zeros(batch, dtype=torch.int64) if before is None else before  # [B]
    after = before + (length if count is None else count)  # [B]
    if even:
        past = Past(angles((used + new)[None], x.dtype), used, None, after)
        past.causal = used == 0
        if used and length > 1:
            slots = torch.arange(used + length, device=x.device)  # [S]
            past.bias = slots <= (used + new)[:, None]  # [T, S]
    else:
        positions = before[:, None] + new  # [B, T]
        past = _mixed(positions, used, before, after, angles(positions, x.dtype))
    if count is not None or not even:
        slots = torch.arange(int(after.max()), device=x.device)  # [S]
        past.alive = (slots < after[:, None])[:, None, :, None]  # [B, 1, S, 1]
    return past


def plan_step(x: Tensor, before: Tensor, angles: Angles) -> Past:
    """Plan one position for every row of x [B, 1, D], after before [B] earlier ones."""
    used, even = _extent(before)
    if even:
        position = torch.full((1, 1), used, device=x.device)  # [1, 1]
        return Past(angles(position, x.dtype), used, None, before + 1)
    past = Past(angles(before[:, None], x.dtype), used, before, before + 1)
    slots = torch.arange(used + 1, device=x.device)  # [S]
    past.bias = (slots <= before[:, None])[:, None, None]  # [B, 1, 1, S]
    return past


def append_(cache: Tensor, new: Tensor, past: Past) -> Tensor:
    """cache [B, G, S, K] and new [B, G, 1, K] -> the longer cache, in memory kept spare for it.

    The returned tensor is a view that remembers its memory and how much of it is written. Who
    finds slot S written already (a fork of the same state went ahead) copies; so does who comes
    with a tensor that remembers nothing. A fork of the dictionary alone is therefore safe.
    """
    slots = past.used + 1
    spare = getattr(cache, "spare", None)
    if spare is None or spare.written != past.used or spare.memory.shape[2] < slots:
        spare = Spare.holding(cache[:, :, : past.used])
    if past.length is None:
        spare.memory[:, :, past.used] = new[:, :, 0]
    else:
        rows = torch.arange(cache.shape[0], device=cache.device)  # [B]
        spare.memory[:, :, past.used] = 0
        spare.memory[rows, :, past.length] = new[:, :, 0].to(cache.dtype)
    spare.written = slots
    longer = spare.memory[:, :, :slots]  # [B, G, S + 1, K]
    longer.spare = spare
    return longer


def room_(cache: Tensor, used: int, even: bool) -> tuple[Tensor, Tensor]:
    """cache [B, G, S, K] -> memory [B, G, C, K] with room for a position, and the longer cache.

    As ``append_``, for who writes the new position himself: into slot ``used``, or where rows
    differ (not ``even``) behind the end of each row, the slot being zeros now.
    """
    spare = getattr(cache, "spare", None)
    if spare is None or spare.written != used or spare.memory.shape[2] <= used:
        spare = Spare.holding(cache[:, :, :used])
    if not even:
        spare.memory[:, :, used] = 0
    spare.written = used + 1
    longer = spare.memory[:, :, : used + 1]  # [B, G, S + 1, K]
    longer.spare = spare
    return spare.memory, longer


@dataclass
class Spare:
    """Memory larger than what is in it."""

    memory: Tensor
    """[B, G, C, K]."""
    written: int
    """Slots of C in use."""

    @classmethod
    def holding(cls, cache: Tensor) -> Spare:
        """Copy cache [B, G, S, K] into memory with room for half as much again, 64 at least."""
        batch, groups, slots, size = cache.shape
        memory = cache.new_zeros(batch, groups, slots + max(64, slots // 2), size)  # [B, G, C, K]
        memory[:, :, :slots] = cache
        return cls(memory, slots)


def _extent(length: Tensor) -> tuple[int, bool]:
    """Slots of the longest row, and whether all rows are as long."""
    low, high = length.aminmax()
    return int(high), bool(low == high)


def _mixed(
    positions: Tensor,
    used: int,
    before: Tensor,
    after: Tensor,
    angles: tuple[Tensor, Tensor] | None,
) -> Past:
    """Rows of different lengths: new positions go behind the end of their own row."""
    new = positions.shape[1]
    slots = torch.arange(used + new, device=positions.device)  # [S]
    behind = slots - before[:, None]  # [B, S]
    source = torch.where(behind < 0, slots, used + behind.clamp(0, new - 1))  # [B, S]
    past = Past(angles, used, before, after)
    past.source = source[:, None, :, None]  # [B, 1, S, 1]
    past.bias = (slots <= positions[..., None])[:, None]  # [B, 1, T, S]
    return past
