"""Scores inside a chunk where all key channels decay alike, or not at all."""

from __future__ import annotations

import torch
from torch import Tensor

from wishbone.kernels.recurrence.plain import between


class Uniform:
    """Products of reading and writing rows, weighted by the decay between them.

    g [n, L, 1] or None. Rows that read are [a; r] or [r] alone, [n, q, L, K]; those that write
    [k; b] or [k]. a reads the state before its own position decays and writes, r after.
    """

    def __init__(self, g: Tensor | None, rows: Tensor, saved: list[Tensor] | None = None) -> None:
        self.sums = None if g is None else g.double().cumsum(1)  # [n, L, 1]
        self.earlier = None if g is None or self.sums is None else self.sums - g  # [n, L, 1]
        self.kind = rows.dtype
        self.across = rows.new_ones(len(rows), 1, 1)  # [n, 1, 1]
        """Decay over the chunk."""
        if self.sums is not None:
            self.across = self.sums[:, -1:].exp().to(rows.dtype)  # [n, 1, 1]
        weights, *factors = saved or self._factors(*rows.shape[:3])
        self.weights = weights
        """Decay between each reading and each writing row, [n, q L, L], or [q L, L] without."""
        self.factors = factors
        """Decay from the chunk's start to each reading row [n, q, L, 1], and after each writing
        row to its end [n, 1, L, 1]."""

    def _factors(self, total: int, stacked: int, size: int) -> tuple[Tensor, ...]:
        if self.sums is None or self.earlier is None:
            ones = self.across.new_ones(size, size)  # [L, L]
            masks = (ones.tril(-1), ones.tril()) if stacked == 2 else (ones.tril(),)
            return (torch.cat(masks),)
        sums = self.sums[..., 0]  # [n, L]
        reading = [sums] if stacked == 1 else [self.earlier[..., 0], sums]
        weights = [between(sums, sums, self.kind)]  # [n, L, L]
        if stacked == 2:
            weights.insert(0, between(reading[0], sums, self.kind, -1))
        near = torch.stack(reading, 1).to(self.kind).exp_()  # [n, q, L]
        far = (sums[:, -1:] - sums).to(self.kind).exp_()  # [n, L]
        return torch.cat(weights, 1), near[..., None], far[:, None, :, None]

    def saved(self) -> tuple[Tensor, ...]:
        """Return what the backward pass needs again."""
        return (self.weights, *self.factors)

    def scores(self, reads: Tensor, writes: Tensor) -> Tensor:
        """reads [n, q, L, K], writes [n, p, L, K] -> [n, q L, p L]."""
        products = torch.bmm(reads.flatten(1, 2), writes.flatten(1, 2).mT)  # [n, q L, p L]
        return self._weighted(products)

    def _weighted(self, products: Tensor) -> Tensor:
        size = self.weights.shape[-1]
        products.unflatten(-1, (-1, size)).mul_(self.weights.unsqueeze(-2))
        return products

    def from_start(self, reads: Tensor) -> Tensor:
        """Scale rows [n, q, L, K] that read, by the decay since the chunk began."""
        return reads * self.factors[0] if self.factors else reads

    def to_end(self, writes: Tensor) -> Tensor:
        """Scale rows [n, p, L, K] that write, by the decay until the chunk ends."""
        return writes * self.factors[1] if self.factors else writes

    def backward(
        self, reads: Tensor, writes: Tensor, dscores: Tensor, dnear: Tensor, dfar: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of reads and writes; works in all but those two."""
        if self.factors:
            dnear *= self.factors[0]
            dfar *= self.factors[1]
        dproducts = self._weighted(dscores)  # [n, q L, p L]
        dreads = dnear.flatten(1, 2).baddbmm_(dproducts, writes.flatten(1, 2))  # [n, q L, K]
        dwrites = dfar.flatten(1, 2).baddbmm_(dproducts.mT, reads.flatten(1, 2))  # [n, p L, K]
        return dreads.view_as(reads), dwrites.view_as(writes)
