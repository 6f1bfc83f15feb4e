"""The mathematics of one chunk of WKV-7, for all chunks at once; README.md derives it.

Arrays of rows are [n, L, N]: n = chunks * batch * heads, chunk by chunk, so that the part of one
chunk is one block of memory and everything except the state is one batched product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The cut of [batch, length, heads, N] into rows [n, chunk, N]."""

    batch: int
    length: int
    heads: int
    chunk: int

    @property
    def lanes(self) -> int:
        """Independent states."""
        return self.batch * self.heads

    @property
    def count(self) -> int:
        """Chunks of one lane; the last is filled up with rows that change nothing."""
        return -(-self.length // self.chunk)

    @property
    def total(self) -> int:
        """n."""
        return self.count * self.lanes

    def split(self, x: Tensor, rows: Tensor) -> None:
        """Copy x [B, T, H, N] into rows [n, L, N], zeros beyond T."""
        into = self.unflat(rows)
        full = self.length // self.chunk
        if full:
            source = x[:, : full * self.chunk].unflatten(1, (full, self.chunk))
            into[:full].copy_(source.permute(1, 0, 3, 2, 4))
        if full < self.count:
            remaining = self.length - full * self.chunk
            into[full, :, :, :remaining].copy_(x[:, full * self.chunk :].transpose(1, 2))
            into[full, :, :, remaining:].zero_()

    def join(self, rows: Tensor, x: Tensor) -> None:
        """Copy rows [n, L, N] into x [B, T, H, N]: ``split`` backwards."""
        source = self.unflat(rows)
        full = self.length // self.chunk
        if full:
            into = x[:, : full * self.chunk].unflatten(1, (full, self.chunk))
            into.copy_(source[:full].permute(1, 0, 3, 2, 4))
        if full < self.count:
            remaining = self.length - full * self.chunk
            x[:, full * self.chunk :].copy_(source[full, :, :, :remaining].transpose(1, 2))

    def unflat(self, rows: Tensor) -> Tensor:
        """View [chunks, B, H, L, N]."""
        return rows.unflatten(0, (self.count, self.batch, self.heads))

    def new(self, like: Tensor, stacked: int, size: int) -> Tensor:
        """Empty rows [n, stacked * L, size]."""
        return like.new_empty(self.total, stacked * self.chunk, size)


@dataclass
class Residuals:
    """The tensors that the backward pass of ``scan`` needs."""

    decay: Tensor
    """[n, L, K] exp of the sum of g up to and including each row."""
    inverse_decay: Tensor
    """[n, L, K]."""
    reads: Tensor
    """[n, 2 L, K] of [a; r], scaled by the decay since the chunk began."""
    writes: Tensor
    """[n, 2 L, K] of [k; b], scaled by its inverse."""
    scores: Tensor
    """[n, 2 L, 2 L] of [[A_ak, A_ab], [A_rk, A_rb]]."""
    solve: Tensor
    """[n, L, L] of M = (I - A_ab)^-1."""
    solved_reads: Tensor
    """[n, L, K] of W = M a."""
    carried: Tensor
    """[n, 2 L, V] of [v; u]."""
    before: Tensor
    """The state [n, K, V] before each chunk."""
    after: Tensor
    """The state [lanes, K, V] after the last."""

    def tensors(self) -> list[Tensor]:
        """List the tensors in the order of the fields."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


def scan(
    rows: Rows, g: Tensor, reads: Tensor, writes: Tensor, carried: Tensor, state: Tensor
) -> tuple[Tensor, Residuals]:
    """Run the recurrence over ``rows``.

    g [n, L, K]; reads = [a; r] and writes = [k; b], [n, 2L, K]; carried [n, 2L, V] holds v in its
    upper half; state [lanes, K, V]. Works in all but g and state. Returns y [n, L, V] and the rest.
    """
    size = rows.chunk
    decay = torch.bmm(_ones(g), g).exp_()  # [n, L, K]
    inverse_decay = decay.reciprocal()  # [n, L, K]
    last = decay[:, -1, :, None]  # [n, K, 1]
    reads[:, 1:size] *= decay[:, :-1]
    reads[:, size:] *= decay
    writes.unflatten(1, (2, size)).mul_(inverse_decay[:, None])

    scores = _masked(torch.bmm(reads, writes.mT))  # [n, 2 L, 2 L]
    solve = invert(scores[:, :size, size:])  # [n, L, L]
    a_k = scores[:, :size, :size]  # [n, L, L]
    early = torch.bmm(solve, torch.bmm(a_k, carried[:, :size]))  # [n, L, V]
    solved_reads = torch.bmm(solve, reads[:, :size])  # [n, L, K]

    before = state.new_empty(rows.total, *state.shape[1:])  # [n, K, V]
    now = state  # [lanes, K, V]
    for part in _parts(rows):
        before[part] = now
        carried[part, size:] = torch.baddbmm(early[part], solved_reads[part], now)  # U
        now = torch.baddbmm(now, writes[part].mT, carried[part]).mul_(last[part])  # H'
    y = torch.bmm(reads[:, size:], before).baddbmm_(scores[:, size:], carried)  # [n, L, V]
    residuals = Residuals(
        decay, inverse_decay, reads, writes, scores, solve, solved_reads, carried, before, now
    )
    return y, residuals


@dataclass
class Gradients:
    """Gradients of the loss in the arguments of ``scan``, shapes as there."""

    g: Tensor
    reads: Tensor
    writes: Tensor
    v: Tensor
    state: Tensor


def scan_backward(rows: Rows, residuals: Residuals, dread: Tensor, dafter: Tensor) -> Gradients:
    """Compute the gradients of ``scan``.

    dread [n, 2L, V] holds dy in its lower half, dafter [lanes, K, V]. Works in ``dread``.
    """
    size = rows.chunk
    reads, writes, scores, carried = (
        residuals.reads,
        residuals.writes,
        residuals.scores,
        residuals.carried,
    )
    last = residuals.decay[:, -1, :, None]  # [n, K, 1]
    dy = dread[:, size:]  # [n, L, V]
    du = torch.bmm(scores[:, size:, size:].mT, dy)  # [n, L, V]
    dbefore = torch.bmm(reads[:, size:].mT, dy)  # [n, K, V]

    dscaled = torch.empty_like(residuals.before)  # [n, K, V]
    dlast = last.new_empty(last.shape[:2])  # [n, K]
    dnow, later = dafter, residuals.after  # [lanes, K, V] each
    for part in reversed(_parts(rows)):
        torch.sum(dnow * later, -1, out=dlast[part])
        scaled = torch.mul(dnow, last[part], out=dscaled[part])  # E
        du[part].baddbmm_(writes[part, size:], scaled)
        dnow = dbefore[part].add_(scaled).baddbmm_(residuals.solved_reads[part].mT, du[part])  # dH
        later = residuals.before[part]

    # Rows [dz; dy] belong to the rows [a; r] that read.
    dread[:, :size] = torch.bmm(residuals.solve.mT, du)
    dv = torch.bmm(scores[:, :, :size].mT, dread).baddbmm_(writes[:, :size], dscaled)  # [n, L, V]
    dscores = _masked(torch.bmm(dread, carried.mT))  # [n, 2 L, 2 L]
    dreads = torch.bmm(dread, residuals.before.mT).baddbmm_(dscores, writes)  # [n, 2 L, K]
    dwrites = torch.bmm(carried, dscaled.mT).baddbmm_(dscores.mT, reads)  # [n, 2 L, K]

    # A factor exp(sum of g) hands its gradient to every g in the sum.
    gained, lost = reads * dreads, writes * dwrites  # [n, 2 L, K] each
    early = gained[:, :size]  # [n, L, K]
    sums = gained[:, size:] - lost[:, :size] - lost[:, size:] + early  # [n, L, K]
    dg = torch.bmm(_ones(sums).mT, sums).sub_(early).add_(dlast[:, None])  # [n, L, K]

    dreads[:, 1:size] *= residuals.decay[:, :-1]
    dreads[:, size:] *= residuals.decay
    dwrites.unflatten(1, (2, size)).mul_(residuals.inverse_decay[:, None])
    return Gradients(dg, dreads, dwrites, dv, dnow)


def _parts(rows: Rows) -> list[slice]:
    """Return the place of each chunk among the n."""
    return [slice(c * rows.lanes, (c + 1) * rows.lanes) for c in range(rows.count)]


def invert(a: Tensor) -> Tensor:
    """Compute (I - a)^-1 for strictly lower triangular a [n, L, L], L = 4 * 2^m.

    Blocks of 4 by substitution, then merged in pairs: the power series that doubles its length
    loses all digits once keys resemble each other, as they do in silence and in steady vowels.
    """
    total, size, _ = a.shape
    inverse = torch.zeros_like(a, memory_format=torch.contiguous_format)  # [n, L, L]
    _invert_base(_diagonal_blocks(a, 4, 0), _diagonal_blocks(inverse, 4, 0))
    half = 4
    while half < size:
        x = _diagonal_blocks(inverse, 2 * half, 0)[..., :half, :half]
        y = _diagonal_blocks(inverse, 2 * half, 0)[..., half:, half:]
        below = _diagonal_blocks(a, 2 * half, half)[..., :half]
        product = torch.matmul(torch.matmul(y, below), x)  # [n, L / 2 h, h, h], h half
        _diagonal_blocks(inverse, 2 * half, half)[..., :half] = product
        half *= 2
    return inverse


def _invert_base(a: Tensor, inverse: Tensor) -> None:
    """Write (I - a)^-1 of blocks [n, m, 4, 4] by forward substitution, entry by entry."""
    for row in range(4):
        inverse[..., row, row] = 1
        for column in range(row - 1, -1, -1):
            entry = a[..., row, column].clone()
            for between in range(column + 1, row):
                entry.addcmul_(a[..., row, between], inverse[..., between, column])
            inverse[..., row, column] = entry


def _diagonal_blocks(x: Tensor, size: int, first_row: int) -> Tensor:
    """View [n, L / size, size - first_row, size] of the blocks on the diagonal of x [n, L, L]."""
    n, length, _ = x.shape
    batch_stride, row_stride, _ = x.stride()
    shape = (n, length // size, size - first_row, size)
    stride = (batch_stride, size * (row_stride + 1), row_stride, 1)
    return x.as_strided(shape, stride, x.storage_offset() + first_row * row_stride)


def _ones(like: Tensor) -> Tensor:
    """Lower triangle of ones [n, L, L], whose product with rows [n, L, K] is their running sum."""
    size = like.shape[1]
    ones = torch.ones(size, size, dtype=like.dtype, device=like.device).tril_()  # [L, L]
    return ones.expand(like.shape[0], size, size)


def _masked(scores: Tensor) -> Tensor:
    """In place: each row of [2L, 2L] keeps what was written before it; r also its own position."""
    size = scores.shape[1] // 2
    for column in (slice(None, size), slice(size, None)):
        scores[:, :size, column].tril_(-1)
        scores[:, size:, column].tril_()
    return scores
