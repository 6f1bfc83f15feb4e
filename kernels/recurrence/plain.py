"""Matrix memories without a correction, with no decay or one number a head, in chunks.

Nothing inside a chunk depends on the state, and the state passes from chunk to chunk by one
multiplication and one addition of its elements. README.md beside this file has the mathematics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wishbone.kernels.wkv7.rows import Rows


class Plain(torch.autograd.Function):
    """r, k [B, T, H', K], v [B, T, H, V], g [B, T, H] or None, state [B, H, V, K], all alike."""

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, k: Tensor, v: Tensor, g: Tensor | None, state: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        batch, length, groups, keys = k.shape
        heads, values = v.shape[2:]
        rows = Rows(batch, length, groups, chunk)
        inner = heads // groups
        r_rows = _split(rows, r)  # [n, L, K]
        k_rows = _split(rows, k)  # [n, L, K]
        v_rows = _split(rows, v.reshape(batch, length, groups, inner * values))  # [n, L, h V]
        g_rows = None if g is None else _split(rows, g.unflatten(2, (groups, inner)))  # [n, L, h]
        decays = None if g_rows is None else Decays(g_rows)

        written = v_rows if decays is None else _scaled(v_rows, decays.to_end)  # [n, L, h V]
        before = _states(rows, torch.bmm(k_rows.mT, written), decays, _inward(state, groups))
        scores = torch.bmm(r_rows, k_rows.mT)  # [n, L, L]
        y = torch.bmm(r_rows, before[: rows.total])  # [n, L, h V]
        if decays is not None:
            _scale(y, decays.from_start)
        for head in range(inner):
            part = slice(head * values, (head + 1) * values)
            weights = _weights(scores, decays, head)  # [n, L, L]
            y[..., part].baddbmm_(weights, v_rows[..., part])
        out = torch.empty_like(v)  # [B, T, H, V]
        rows.join(y, out.view(batch, length, groups, inner * values))
        saved = (r_rows, k_rows, v_rows, before) if g is None else (
            r_rows, k_rows, v_rows, before, g_rows, y
        )  # fmt: skip
        ctx.save_for_backward(*saved)
        ctx.rows, ctx.sizes = rows, (groups, inner, values)
        return out, _outward(before[rows.total :], batch, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all inputs from those of y and of the last state."""
        rows, (groups, inner, values) = ctx.rows, ctx.sizes
        r, k, v, before, *decayed = ctx.saved_tensors
        decays = Decays(decayed[0]) if decayed else None
        batch, length = rows.batch, rows.length
        dout = _split(rows, dy.reshape(batch, length, groups, inner * values))  # [n, L, h V]
        dread = dout if decays is None else _scaled(dout, decays.from_start)  # [n, L, h V]
        after = _gradients(rows, torch.bmm(r.mT, dread), decays, _inward(dstate, groups))
        dafter, dfirst = after[rows.lanes :], after[: rows.lanes]  # [n, K, h V], [lanes, K, h V]

        dv = torch.bmm(k, dafter)  # [n, L, h V]
        written, last = v, None
        if decays is not None:
            written = _scaled(v, decays.to_end)  # [n, L, h V]
            _scale(dv, decays.to_end)
            last = _per_head(v, dv, inner).sum(1)  # [n, h]
            passed = _per_head(dafter, before[: rows.total], inner).sum(1)  # [n, h]
            last.addcmul_(passed, decays.across)
        scores = torch.bmm(r, k.mT)  # [n, L, L]
        dscores = torch.zeros_like(scores)  # [n, L, L]
        for head in range(inner):
            part = slice(head * values, (head + 1) * values)
            dweights = torch.bmm(dout[..., part], v[..., part].mT)  # [n, L, L]
            if decays is None:
                weights = scores.tril()  # [n, L, L]
                dscores += dweights.tril_()
            else:
                between = decays.between(head)  # [n, L, L]
                weights = scores * between  # [n, L, L]
                dscores.addcmul_(dweights, between)
            dv[..., part].baddbmm_(weights.mT, dout[..., part])
        dr = torch.bmm(dread, before[: rows.total].mT).baddbmm_(dscores, k)  # [n, L, K]
        dk = torch.bmm(written, dafter.mT).baddbmm_(dscores.mT, r)  # [n, L, K]

        grads = [_join(rows, x) for x in (dr, dk)]  # [B, T, H', K] each
        grads.append(_join(rows, dv).view_as(dy))  # [B, T, H, V]
        dg = None
        if decays is not None and last is not None:
            sums = _per_head(decayed[1], dout, inner) - _per_head(v, dv, inner)  # [n, L, h]
            dg = _join(rows, sums.flip(1).cumsum(1).flip(1) + last[:, None]).flatten(2)  # [B, T, H]
        return (*grads, dg, _outward(dfirst, batch, groups * inner), None)


class Decays:
    """The factors of one number a head inside each chunk, from g [n, L, h].

    Sums are float64: after a strong decay, differences of float32 sums would have lost digits.
    """

    def __init__(self, g: Tensor) -> None:
        self.kind = g.dtype
        self.sums = g.double().cumsum(1)  # [n, L, h]
        self.from_start = self.sums.exp().to(g.dtype)  # [n, L, h]
        """Decay from the chunk's start to each row, its own included."""
        self.to_end = (self.sums[:, -1:] - self.sums).to(g.dtype).exp_()  # [n, L, h]
        """Decay after each row to the chunk's end."""
        self.across = self.from_start[:, -1]  # [n, h]

    def between(self, head: int) -> Tensor:
        """Return [n, L, L]: the decay from column to row, 0 where the column is later."""
        return between(self.sums[..., head], self.sums[..., head], self.kind)


def between(reading: Tensor, writing: Tensor, kind: torch.dtype, diagonal: int = 0) -> Tensor:
    """Sums of g, [n, L] each -> exp(reading_t - writing_s) [n, L, L] where s <= t + diagonal.

    Masked before the exponential: above the diagonal it would overflow.
    """
    size = reading.shape[1]
    later = torch.ones(size, size, dtype=torch.bool, device=reading.device).triu_(1 + diagonal)
    difference = (reading[:, :, None] - writing[:, None]).to(kind)  # [n, L, L]
    return difference.masked_fill_(later, -torch.inf).exp_()


def _weights(scores: Tensor, decays: Decays | None, head: int) -> Tensor:
    return scores.tril() if decays is None else scores * decays.between(head)


def _states(rows: Rows, written: Tensor, decays: Decays | None, state: Tensor) -> Tensor:
    """Return the state [n + lanes, K, h V] before each chunk, and after the last."""
    lanes = rows.lanes
    before = written.new_empty(rows.total + lanes, *written.shape[1:])  # [n + lanes, K, h V]
    before[:lanes] = state
    steps = before.unflatten(0, (rows.count + 1, lanes)).unbind(0)
    added = written.unflatten(0, (rows.count, lanes)).unbind(0)
    across = _across(rows, decays, written.shape[-1])
    for index, (now, later) in enumerate(zip(steps, steps[1:], strict=False)):
        if across is None:
            torch.add(now, added[index], out=later)
        else:
            torch.addcmul(added[index], now, across[index], out=later)
    return before


def _gradients(rows: Rows, read: Tensor, decays: Decays | None, dstate: Tensor) -> Tensor:
    """Return the gradient [lanes + n, K, h V] in the state before the first, and after each."""
    lanes = rows.lanes
    after = read.new_empty(rows.total + lanes, *read.shape[1:])  # [lanes + n, K, h V]
    after[rows.total :] = dstate
    steps = after.unflatten(0, (rows.count + 1, lanes)).unbind(0)
    added = read.unflatten(0, (rows.count, lanes)).unbind(0)
    across = _across(rows, decays, read.shape[-1])
    for index in reversed(range(rows.count)):
        if across is None:
            torch.add(steps[index + 1], added[index], out=steps[index])
        else:
            torch.addcmul(added[index], steps[index + 1], across[index], out=steps[index])
    return after


def _across(rows: Rows, decays: Decays | None, columns: int) -> tuple[Tensor, ...] | None:
    """Return the decay over each chunk, [lanes, 1, h V] each."""
    if decays is None:
        return None
    heads = decays.across.shape[1]
    wide = decays.across[:, None].repeat_interleave(columns // heads, 2)  # [n, 1, h V]
    return wide.unflatten(0, (rows.count, rows.lanes)).unbind(0)


def _split(rows: Rows, x: Tensor) -> Tensor:
    """x [B, T, H', N] -> rows [n, L, N]."""
    into = rows.new(x, 1, x.shape[-1])  # [n, L, N]
    rows.split(x, into)
    return into


def _join(rows: Rows, x: Tensor) -> Tensor:
    """Rows [n, L, N] -> [B, T, H', N]."""
    into = x.new_empty(rows.batch, rows.length, rows.heads, x.shape[-1])  # [B, T, H', N]
    rows.join(x, into)
    return into


def _scaled(x: Tensor, factor: Tensor) -> Tensor:
    """x [n, L, h V], factor [n, L, h] -> their product [n, L, h V]."""
    return (x.unflatten(-1, (factor.shape[-1], -1)) * factor[..., None]).flatten(-2)


def _scale(x: Tensor, factor: Tensor) -> None:
    x.unflatten(-1, (factor.shape[-1], -1)).mul_(factor[..., None])


def _per_head(x: Tensor, y: Tensor, heads: int) -> Tensor:
    """x, y [n, R, h V] -> sums of their products over V, [n, R, h]."""
    return (x * y).unflatten(-1, (heads, -1)).sum(-1)


def _inward(state: Tensor, groups: int) -> Tensor:
    """state [B, H, V, K] -> [B H', K, h V]."""
    return state.unflatten(1, (groups, -1)).flatten(2, 3).mT.flatten(0, 1)


def _outward(state: Tensor, batch: int, heads: int) -> Tensor:
    """State [B H', K, h V] -> [B, H, V, K], contiguous."""
    return state.mT.reshape(batch, heads, -1, state.shape[1]).contiguous()
