"""Padding: real positions of each row go to its front, outputs come back to their places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Packing:
    """Real positions of a padded batch, worked out once for a call."""

    mask: Tensor
    """[B, T], true at real positions."""
    lengths: Tensor
    """[B] int64, real positions of each row."""
    index: Tensor | None
    """[B, P] position that goes to each place at the front; None where all are there already."""
    size: int
    """P, positions of the packed batch."""

    @classmethod
    def of(cls, mask: Tensor, short: bool) -> Packing | None:
        """Plan for mask [B, T]; None where nothing is to do.

        ``short`` cuts the packed batch to its longest row; without, a GPU is never waited for.
        """
        lengths, size = mask.sum(1), mask.shape[1]  # [B]
        on_cpu = mask.device.type == "cpu"
        if on_cpu and bool(mask.all()):
            return None
        if short or (on_cpu and not bool(mask.any())):
            size = int(lengths.max())
        # Padding at the right end alone leaves real positions where they are.
        if on_cpu and bool((mask[:, 1:] <= mask[:, :-1]).all()):
            return cls(mask, lengths, None, size)
        order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)  # [B, T]
        return cls(mask, lengths, order[:, :size], size)

    def pack(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, P, D], zeros behind the real positions of each row."""
        real = torch.arange(self.size, device=x.device) < self.lengths[:, None]  # [B, P]
        if self.index is None:
            packed = x[:, : self.size]  # [B, P, D]
        else:
            index = self.index[..., None].expand(-1, -1, x.shape[2])  # [B, P, D]
            packed = x.gather(1, index)  # [B, P, D]
        return packed.masked_fill(~real[..., None], 0)

    def unpack(self, y: Tensor) -> Tensor:
        """y [B, P, D] -> [B, T, D], zeros at masked positions."""
        batch, length = self.mask.shape
        if self.index is None:
            if self.size < length:
                y = torch.cat([y, y.new_zeros(batch, length - self.size, y.shape[2])], 1)
        else:
            index = self.index[..., None].expand(-1, -1, y.shape[2])  # [B, P, D]
            y = y.new_zeros(batch, length, y.shape[2]).scatter(1, index, y)  # [B, T, D]
        return y.masked_fill(~self.mask[..., None], 0)
