"""Matrix memories with a correction (the delta rule), or with a decay a key channel, in chunks.

What differs with the class of decay is inside ``Uniform`` (one number a head, or none) and ``Tree``
(one a key channel): products of rows that read with rows that write, weighted by the decay between
them. README.md beside this file has the mathematics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wishbone.kernels.recurrence.plain import _inward, _join, _outward, _split
from wishbone.kernels.recurrence.tree import Tree
from wishbone.kernels.recurrence.uniform import Uniform
from wishbone.kernels.wkv7.rows import Rows, invert


class Scan(torch.autograd.Function):
    """r, k, a, b [B, T, H, K], v [B, T, H, V], g [B, T, H] or with K, state [B, H, V, K]."""

    @staticmethod
    def forward(
        ctx: Any,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor | None,
        a: Tensor | None,
        b: Tensor | None,
        state: Tensor,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        batch, length, heads, _ = k.shape
        rows = Rows(batch, length, heads, chunk)
        delta = a is not None and b is not None
        reads = _stacked(rows, (a, r) if delta else (r,))  # [n, q, L, K], q = 2 with a correction
        writes = _stacked(rows, (k, b) if delta else (k,))  # [n, p, L, K], p = q
        carried = reads.new_empty(rows.total, writes.shape[1], chunk, v.shape[-1])  # [n, p, L, V]
        rows.split(v, carried[:, 0])
        g_rows = _decay_rows(rows, g)  # [n, L, K], [n, L, 1] or None
        decays = (Tree if g is not None and g.ndim == 4 else Uniform)(g_rows, reads)

        scores = decays.scores(reads, writes)  # [n, q L, p L]
        near = decays.from_start(reads)  # [n, q, L, K]
        far = decays.to_end(writes)  # [n, p, L, K]
        before = v.new_empty(rows.total + rows.lanes, *state.shape[:1:-1])  # [n + lanes, K, V]
        before[: rows.lanes] = _inward(state, heads)
        solve = _forward(rows, decays.across, scores, near, far, carried, before) if delta else None
        if solve is None:
            _forward_plain(rows, decays.across, far[:, 0], carried[:, 0], before)
        y = torch.bmm(near[:, -1], before[: rows.total])  # [n, L, V]
        y.baddbmm_(scores[:, -chunk:], carried.flatten(1, 2))
        out = torch.empty_like(v)  # [B, T, H, V]
        rows.join(y, out)
        saved = (reads, writes, carried, before, scores, solve, g_rows)
        ctx.save_for_backward(*saved, *decays.saved())
        ctx.rows, ctx.channel = rows, isinstance(decays, Tree)
        return out, _outward(before[rows.total :], batch, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs from those of y and of the last state."""
        rows = ctx.rows
        reads, writes, carried, before, scores, solve, g_rows, *factors = ctx.saved_tensors
        decays = (Tree if ctx.channel else Uniform)(g_rows, reads, factors)
        size, delta = rows.chunk, solve is not None
        near, far = decays.from_start(reads), decays.to_end(writes)  # [n, q, L, K], [n, p, L, K]
        dread = carried.new_empty(carried.shape)  # [n, q, L, V] of [z; y]
        rows.split(dy, dread[:, -1])
        dnow = before.new_empty(before.shape)  # [lanes + n, K, V] before the first and after each
        dnow[rows.total :] = _inward(dstate, rows.heads)
        torch.bmm(near[:, -1].mT, dread[:, -1], out=dnow[: rows.total])
        if solve is not None:
            _backward(rows, decays.across, scores, near, far, solve, dread, dnow)
        else:
            _backward_plain(rows, decays.across, dnow)
        dafter = dnow[rows.lanes :]  # [n, K, V]

        flat = dread.flatten(1, 2)  # [n, q L, V]
        dv = torch.bmm(scores[:, :, :size].mT, flat).baddbmm_(far[:, 0], dafter)  # [n, L, V]
        dscores = torch.bmm(flat, carried.flatten(1, 2).mT)  # [n, q L, p L]
        dnear = torch.bmm(flat, before[: rows.total].mT).view_as(reads)  # [n, q, L, K]
        dfar = torch.bmm(carried.flatten(1, 2), dafter.mT).view_as(writes)  # [n, p, L, K]
        dlast = None
        if g_rows is not None:
            dlast = (far * dfar).sum((1, 2))  # [n, K]
            dlast.addcmul_((dafter * before[: rows.total]).sum(-1), decays.across[..., 0])
        dreads, dwrites = decays.backward(reads, writes, dscores, dnear, dfar)
        dg = None
        if dlast is not None:
            dg = _decay_gradient(reads * dreads, writes * dwrites, dlast, g_rows.shape[-1])
            dg = _join(rows, dg)  # [B, T, H, K] or [B, T, H, 1]
            dg = dg if ctx.channel else dg[..., 0]
        dstate = _outward(dnow[: rows.lanes], rows.batch, rows.heads)
        dr, dk = _join(rows, dreads[:, -1]), _join(rows, dwrites[:, 0])  # [B, T, H, K] each
        da = _join(rows, dreads[:, 0]) if delta else None
        db = _join(rows, dwrites[:, 1]) if delta else None
        return dr, dk, _join(rows, dv), dg, da, db, dstate, None


def _forward(
    rows: Rows,
    across: Tensor,
    scores: Tensor,
    near: Tensor,
    far: Tensor,
    carried: Tensor,
    before: Tensor,
) -> Tensor:
    """Write U into ``carried`` and the states into ``before``; return M = (I - A_ab)^-1."""
    size = rows.chunk
    solve = invert(scores[:, :size, size:])  # [n, L, L]
    early = torch.bmm(solve, torch.bmm(scores[:, :size, :size], carried[:, 0]))  # [n, L, V]
    solved = torch.bmm(solve, near[:, 0])  # [n, L, K]
    carried_flat, far_flat = carried.flatten(1, 2), far.flatten(1, 2)  # [n, p L, V], [n, p L, K]
    steps = zip(
        *(_chunks(rows, x) for x in (early, solved, across, far_flat, carried_flat, before)),
        _chunks(rows, before[rows.lanes :]),
        strict=False,
    )
    for first, reading, decay, writing, values, now, later in steps:
        torch.baddbmm(first, reading, now, out=values[:, size:])  # U
        torch.mul(now, decay, out=later)
        later.baddbmm_(writing.mT, values)
    return solve


def _forward_plain(rows: Rows, across: Tensor, far: Tensor, v: Tensor, before: Tensor) -> None:
    """Write the states into ``before``."""
    written = torch.bmm(far.mT, v)  # [n, K, V]
    steps = zip(
        *(_chunks(rows, x) for x in (written, across, before, before[rows.lanes :])), strict=False
    )
    for added, decay, now, later in steps:
        torch.addcmul(added, now, decay, out=later)


def _backward(
    rows: Rows,
    across: Tensor,
    scores: Tensor,
    near: Tensor,
    far: Tensor,
    solve: Tensor,
    dread: Tensor,
    dnow: Tensor,
) -> None:
    """Write dZ into ``dread`` and add to the gradients of states, whose R' dY is in ``dnow``."""
    size = rows.chunk
    du = torch.bmm(scores[:, size:, size:].mT, dread[:, 1])  # [n, L, V]
    solved = torch.bmm(solve, near[:, 0])  # [n, L, K]
    parts = [_chunks(rows, x) for x in (du, far[:, 1], solved, across, dnow)]
    afters = _chunks(rows, dnow[rows.lanes :])
    for grown, writing, reading, decay, now, after in reversed(list(zip(*parts, afters))):  # noqa: B905
        grown.baddbmm_(writing, after)  # dU
        now.addcmul_(after, decay).baddbmm_(reading.mT, grown)
    torch.bmm(solve.mT, du, out=dread[:, 0])  # dZ


def _backward_plain(rows: Rows, across: Tensor, dnow: Tensor) -> None:
    """Add to the gradients of states, whose R' dY is in ``dnow``."""
    steps = list(
        zip(
            *(_chunks(rows, x) for x in (across, dnow, dnow[rows.lanes :])),
            strict=False,
        )
    )
    for decay, now, after in reversed(steps):
        now.addcmul_(after, decay)


def _decay_gradient(gained: Tensor, lost: Tensor, dlast: Tensor, columns: int) -> Tensor:
    """Gradient of g [n, L, K] or [n, L, 1]: a factor exp(sum of g) gives to every g in the sum."""
    if columns == 1:
        gained, lost = gained.sum(-1, keepdim=True), lost.sum(-1, keepdim=True)  # [n, q, L, 1]
        dlast = dlast.sum(-1, keepdim=True)  # [n, 1]
    sums = torch.sub(gained[:, 0], lost[:, 0])  # [n, L, K]
    if gained.shape[1] == 2:
        sums.add_(gained[:, 1]).sub_(lost[:, 1])
    total = sums.flip(1).cumsum(1).flip(1)  # [n, L, K]
    if gained.shape[1] == 2:
        total -= gained[:, 0]  # a reads before its own decay
    return total.add_(dlast[:, None])


def _chunks(rows: Rows, x: Tensor) -> tuple[Tensor, ...]:
    """x [n, ...] -> one [lanes, ...] for each chunk; of the rest, only whole chunks."""
    return x[: rows.total].unflatten(0, (rows.count, rows.lanes)).unbind(0)


def _stacked(rows: Rows, tensors: tuple[Tensor | None, ...]) -> Tensor:
    """Tensors [B, T, H, K] -> rows [n, number of tensors, L, K]."""
    like = next(x for x in tensors if x is not None)
    stack = like.new_empty(rows.total, len(tensors), rows.chunk, like.shape[-1])  # [n, q, L, K]
    for index, x in enumerate(tensors):
        if x is not None:
            rows.split(x, stack[:, index])
    return stack


def _decay_rows(rows: Rows, g: Tensor | None) -> Tensor | None:
    """g [B, T, H] or [B, T, H, K] -> [n, L, 1] or [n, L, K]."""
    if g is None:
        return None
    return _split(rows, g if g.ndim == 4 else g[..., None])
