"""Scores inside a chunk where every key channel has a decay of its own: a binary tree of blocks.

A product of a row that reads at t with one that wrote at s is a sum over channels of
r_t k_s exp(G_t - G_s), G the running sum of g. Dividing by exp(G_s) overflows. A block of rows t in
the second half of 2 m rows, and columns s in the first half, has a border b between them: with
exp(G_t - G_b) on the rows and exp(G_b - G_s) on the columns both factors are at most 1. The blocks
of 4 that remain on the diagonal take their first row as border: exponents up to 3 * 20 in float32.
A border in the middle of them would double the range, but make the rounding of row 0 depend on row
3, which is later.

Sums begin at the border of each block, so that a strong decay costs later rows no digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 4
"""Rows of a block on the diagonal: exp(3 * 20) fits float32, exp(7 * 20) does not."""


class Tree:
    """Products of reading and writing rows, weighted by the decay between them.

    g [n, L, K]. Rows that read are [a; r] or [r] alone, [n, q, L, K]; those that write [k; b] or
    [k]. a reads the state before its own position decays and writes, r after.
    """

    def __init__(self, g: Tensor, rows: Tensor, saved: list[Tensor] | None = None) -> None:
        self.size = rows.shape[2]
        factors = list(saved or _factors(g))
        self.near, self.far = factors[:2]
        """Decay [n, L, K] from the chunk's start to each row, and after each row to its end."""
        self.levels = [tuple(factors[at : at + 2]) for at in range(2, len(factors), 2)]
        """For blocks of 4 on the diagonal, and then of 8, 16, ...: factors of rows, of columns."""
        self.across = self.near[:, -1, :, None]  # [n, K, 1]
        """Decay over the chunk."""

    def saved(self) -> tuple[Tensor, ...]:
        """Return what the backward pass needs again."""
        return (self.near, self.far, *(x for level in self.levels for x in level))

    def from_start(self, reads: Tensor) -> Tensor:
        """Scale rows [n, q, L, K] that read, by the decay since the chunk began."""
        near = torch.empty_like(reads)  # [n, q, L, K]
        _scale_reads(reads, self.near, near)
        return near

    def to_end(self, writes: Tensor) -> Tensor:
        """Scale rows [n, p, L, K] that write, by the decay until the chunk ends."""
        return writes * self.far[:, None]

    def scores(self, reads: Tensor, writes: Tensor) -> Tensor:
        """reads [n, q, L, K], writes [n, p, L, K] -> [n, q L, p L]."""
        total, stacked, size, _ = reads.shape
        scores = reads.new_zeros(total, stacked * size, stacked * size)  # [n, q L, p L]
        for level in range(len(self.levels)):
            near, far = self._scaled(level, reads, writes)  # [n j, q m, K], [n j, p m, K]
            block = _block(scores, stacked, size, level)  # [n, j, q, m, p, m]
            product = torch.bmm(near, far.mT).view(block.shape)
            block.copy_(product if level else _masked(product))
        return scores

    def backward(
        self, reads: Tensor, writes: Tensor, dscores: Tensor, dnear: Tensor, dfar: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of reads and writes; works in all but those two."""
        dreads = torch.empty_like(dnear)  # [n, q, L, K]
        _scale_reads(dnear, self.near, dreads)
        dwrites = dfar.mul_(self.far[:, None])  # [n, p, L, K]
        stacked, size = reads.shape[1:3]
        for level, factors in enumerate(self.levels):
            near, far = self._scaled(level, reads, writes)  # [n j, q m, K], [n j, p m, K]
            block = _block(dscores, stacked, size, level)  # [n, j, q, m, p, m]
            block = block if level else _masked(block)
            dproduct = block.reshape(len(near), near.shape[1], far.shape[1])  # [n j, q m, p m]
            rows, columns = _halves(dreads, level)[1], _halves(dwrites, level)[0]
            shape = (rows.shape[0], rows.shape[2], stacked, *rows.shape[3:])  # [n, j, q, m, K]
            grown = torch.bmm(dproduct, far).view(shape).transpose(1, 2)  # [n, q, j, m, K]
            _add_scaled_reads(grown, factors[0], rows)
            grown = torch.bmm(dproduct.mT, near).view(shape).transpose(1, 2)  # [n, p, j, m, K]
            columns.addcmul_(grown, factors[1][:, None])
        return dreads, dwrites

    def _scaled(self, level: int, reads: Tensor, writes: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the blocks of one level, scaled by the decay to their border."""
        rows, columns = _halves(reads, level)[1], _halves(writes, level)[0]  # [n, q, j, m, K]
        total, stacked, blocks, half, keys = rows.shape
        near = rows.new_empty(total, blocks, stacked, half, keys)  # [n, j, q, m, K]
        far = torch.empty_like(near)  # [n, j, p, m, K]
        _scale_reads(rows, self.levels[level][0], near.transpose(1, 2))
        torch.mul(columns, self.levels[level][1][:, None], out=far.transpose(1, 2))
        return near.view(total * blocks, -1, keys), far.view(total * blocks, -1, keys)


def _factors(g: Tensor) -> list[Tensor]:
    """g [n, L, K] -> decay from the start, to the end, and the pair of each level."""
    total, size, keys = g.shape
    sums = torch.zeros(total, size // BASE, BASE, keys, dtype=g.dtype, device=g.device)
    blocks = g.unflatten(1, (-1, BASE))  # [n, j, 4, K]
    for row in range(1, BASE):
        torch.add(sums[:, :, row - 1], blocks[:, :, row], out=sums[:, :, row])
    near = sums.exp()  # [n, j, 4, K], from the first row
    levels = [near, near.reciprocal()]
    before = sums + blocks[:, :, :1]  # [n, j, 4, K] sums from a block's start, own row included
    behind = torch.zeros_like(before)  # [n, j, 4, K] sums after each row to its block's end
    for row in reversed(range(BASE - 1)):
        torch.add(behind[:, :, row + 1], blocks[:, :, row + 1], out=behind[:, :, row])
    half = BASE
    while half < size:
        first = before.view(total, -1, 2, half, keys)  # [n, j, 2, m, K]
        last = behind.view(total, -1, 2, half, keys)  # [n, j, 2, m, K]
        levels += [first[:, :, 1].exp(), last[:, :, 0].exp()]
        sums_of_first = first[:, :, 0, -1:].clone()  # [n, j, 1, K]
        sums_of_second = first[:, :, 1, -1:].clone()  # [n, j, 1, K]
        first[:, :, 1] += sums_of_first
        last[:, :, 0] += sums_of_second
        half *= 2
    return [before.view_as(g).exp_(), behind.view_as(g).exp_(), *levels]


def _halves(x: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """x [n, q, L, K] -> columns and rows of a level's blocks, [n, q, j, m, K] each.

    Level 0 are the blocks on the diagonal, whose rows and columns are the same.
    """
    if not level:
        blocks = x.unflatten(2, (-1, BASE))  # [n, q, j, 4, K]
        return blocks, blocks
    halves = x.unflatten(2, (-1, 2, BASE << (level - 1)))  # [n, q, j, 2, m, K]
    return halves[:, :, :, 0], halves[:, :, :, 1]


def _block(scores: Tensor, stacked: int, size: int, level: int) -> Tensor:
    """View [n, j, q, m, p, m] of the blocks of one level in scores [n, q L, p L], q = p."""
    half = BASE << max(0, level - 1)
    apart = 2 * half if level else half
    batch, row, _ = scores.stride()
    shape = (len(scores), size // apart, stacked, half, stacked, half)
    stride = (batch, apart * (row + 1), size * row, row, size, 1)
    offset = scores.storage_offset() + (half * row if level else 0)
    return scores.as_strided(shape, stride, offset)


def _masked(block: Tensor) -> Tensor:
    """Block [n, j, q, 4, p, 4]: r keeps what was written up to its position, a what was before."""
    ones = torch.ones(BASE, BASE, dtype=torch.bool, device=block.device)
    masks = [ones.triu(1)] if block.shape[2] == 1 else [ones.triu(), ones.triu(1)]
    return block.masked_fill(torch.stack(masks)[:, :, None], 0)


def _scale_reads(reads: Tensor, factor: Tensor, out: Tensor) -> None:
    """Write reads [n, q, ..., m, K] times factor [n, ..., m, K] into out; a by the row before."""
    torch.mul(reads[:, -1], factor, out=out[:, -1])
    if reads.shape[1] == 2:
        torch.mul(reads[:, 0, ..., 1:, :], factor[..., :-1, :], out=out[:, 0, ..., 1:, :])
        out[:, 0, ..., 0, :].copy_(reads[:, 0, ..., 0, :])


def _add_scaled_reads(reads: Tensor, factor: Tensor, out: Tensor) -> None:
    """Add reads [n, q, ..., m, K] times factor [n, ..., m, K] to out; a by the row before."""
    out[:, -1].addcmul_(reads[:, -1], factor)
    if reads.shape[1] == 2:
        out[:, 0, ..., 1:, :].addcmul_(reads[:, 0, ..., 1:, :], factor[..., :-1, :])
        out[:, 0, ..., 0, :] += reads[:, 0, ..., 0, :]
