"""WKV-7 in chunks: everything inside a chunk is matrix products, only the state is sequential.

The mathematics, with the same symbols, is in README.md beside this file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wishbone.kernels.wkv7.reference import compute_dtype

CHUNK = 32
"""Positions per chunk; the fastest on a CPU for heads of 64 (``measure``)."""

LONGEST = 64
"""exp(0.6065 * 64) is 7e16; float32 ends at 3e38, half of it in the exponent for products."""

SLICE = 1 << 17
"""Numbers per operand worked on at once, so that a handful of operands stay in the cache."""


def wkv7_chunked(
    r: Tensor,
    g: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The same function as ``wkv7_reference``, with its own backward pass.

    Shapes as there. ``chunk`` is 4, 8, 16, 32 or 64. Needs ``-0.7 <= g <= 0``, which RWKV-7's
    decay always satisfies: a chunk divides by the decay of all its positions together.
    Raises ``ValueError`` for another chunk length. Not differentiable twice.
    """
    if chunk not in (4, 8, 16, 32, LONGEST):
        raise ValueError(f"chunk length {chunk}: must be 4, 8, 16, 32 or {LONGEST}")
    batch, length, heads, keys = k.shape
    while chunk > 4 and chunk // 2 >= length:
        chunk //= 2
    if mask is not None:
        hole = ~mask[:, :, None, None]
        g, k, b = (x.masked_fill(hole, 0) for x in (g, k, b))
    if state is None:
        kind = compute_dtype(r, g, k, v, a, b)
        state = torch.zeros(batch, heads, v.shape[-1], keys, dtype=kind, device=k.device)
    if not length:
        return torch.zeros_like(v), state
    y, after = _Chunked.apply(r, g, k, v, a, b, state, chunk)
    return y, after


class _Chunked(torch.autograd.Function):
    """Forward and backward over slices of the batch."""

    @staticmethod
    def forward(ctx: Any, r, g, k, v, a, b, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        batch, length, heads, _ = k.shape
        kind = compute_dtype(r, g, k, v, a, b, state)
        y = torch.empty(v.shape, dtype=r.dtype, device=v.device)
        after = torch.empty(state.shape, dtype=kind, device=state.device)
        keep = any(ctx.needs_input_grad)
        saved: list[Tensor] = []
        step = max(1, SLICE // (length * heads * k.shape[-1]))
        for start in range(0, batch, step):
            rows = slice(start, start + step)
            inputs = [x[rows] for x in (r, g, k, v, a, b)]
            with torch.autocast(k.device.type, enabled=False):
                kept = _forward(inputs, state[rows], y[rows], after[rows], chunk)
            saved += kept if keep else []
        ctx.save_for_backward(*saved)
        ctx.shape, ctx.step = k.shape, step
        ctx.dtypes = [x.dtype for x in (r, g, k, v, a, b, state)]
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dafter: Tensor) -> tuple[Tensor | None, ...]:
        batch = ctx.shape[0]
        values = dy.shape[-1]
        shapes = [ctx.shape] * 3 + [dy.shape] + [ctx.shape] * 2
        grads = [dy.new_empty(s, dtype=d) for s, d in zip(shapes, ctx.dtypes, strict=False)]
        dstate = dafter.new_empty(dafter.shape[0], ctx.shape[2], values, ctx.shape[3])
        saved = ctx.saved_tensors
        per_slice = len(saved) // len(range(0, batch, ctx.step))
        for index, start in enumerate(range(0, batch, ctx.step)):
            rows = slice(start, start + ctx.step)
            kept = saved[index * per_slice : (index + 1) * per_slice]
            with torch.autocast(dy.device.type, enabled=False):
                _backward(kept, dy[rows], dafter[rows], [x[rows] for x in grads], dstate[rows])
        return (*grads, dstate.to(ctx.dtypes[-1]), None)


def _forward(
    inputs: list[Tensor], state: Tensor, y: Tensor, after: Tensor, chunk: int
) -> list[Tensor]:
    """One slice of the batch: writes y and the final state, returns what backward needs."""
    r, g, k, v, a, b = inputs
    batch, length, heads, keys = k.shape
    values = v.shape[-1]
    count = -(-length // chunk)
    lanes = batch * heads
    total = count * lanes
    new = after.new_empty

    decay = torch.empty(total, chunk, keys, dtype=after.dtype, device=after.device)
    _split(g, decay, count, chunk)
    decay = torch.bmm(_ones(chunk, decay), decay).exp_()  # exp of the inclusive sums
    last = decay[:, -1, :, None]  # [n, K, 1]

    # Rows that read the state, [a; r], and rows that write it, [k; b].
    reads, writes = new(total, 2 * chunk, keys), new(total, 2 * chunk, keys)
    _split(a, reads[:, :chunk], count, chunk)
    _split(r, reads[:, chunk:], count, chunk)
    _split(k, writes[:, :chunk], count, chunk)
    _split(b, writes[:, chunk:], count, chunk)
    reads[:, 1:chunk] *= decay[:, :-1]
    reads[:, chunk:] *= decay
    inverse_decay = decay.reciprocal()
    writes.view(total, 2, chunk, keys).mul_(inverse_decay[:, None])

    scores = torch.bmm(reads, writes.mT)  # [n, 2L, 2L]
    _mask_(scores, chunk)
    solve = invert(scores[:, :chunk, chunk:])  # M = (I - A_ab)^-1

    # [v; u]: what the writing rows carry. u is completed inside the scan.
    carried = new(total, 2 * chunk, values)
    _split(v, carried[:, :chunk], count, chunk)
    early = torch.bmm(solve, torch.bmm(scores[:, :chunk, :chunk], carried[:, :chunk]))
    solved_reads = torch.bmm(solve, reads[:, :chunk])  # W

    before = new(total, keys, values)
    now = state.mT.reshape(lanes, keys, values).to(after.dtype)
    for c in range(count):
        part = slice(c * lanes, (c + 1) * lanes)
        before[part] = now
        carried[part, chunk:] = torch.baddbmm(early[part], solved_reads[part], now)
        now = torch.baddbmm(now, writes[part].mT, carried[part]).mul_(last[part])
    after.copy_(now.view(batch, heads, keys, values).mT)

    out = torch.bmm(reads[:, chunk:], before).baddbmm_(scores[:, chunk:], carried)
    _join(out, y, count, chunk)
    return [decay, inverse_decay, reads, writes, scores, solve, solved_reads, carried, before, now]


def _backward(
    kept: tuple[Tensor, ...], dy: Tensor, dafter: Tensor, grads: list[Tensor], dstate: Tensor
) -> None:
    """One slice of the batch: fills the gradients, in the notation of ``_forward``."""
    decay, inverse_decay, reads, writes, scores, solve, solved_reads, carried, before, end = kept
    total, chunk, keys = decay.shape
    values = carried.shape[-1]
    batch, _, heads, _ = dy.shape
    lanes = batch * heads
    count = total // lanes
    new = decay.new_empty
    last = decay[:, -1, :, None]

    # Gradients of the rows that were read out: [dz; dy], dz known only after the scan.
    dread = new(total, 2 * chunk, values)
    dout = dread[:, chunk:]
    _split(dy, dout, count, chunk)
    du = torch.bmm(scores[:, chunk:, chunk:].mT, dout)
    dbefore = torch.bmm(reads[:, chunk:].mT, dout)

    dscaled = new(total, keys, values)
    dlast = new(total, keys)
    dnow = dafter.mT.reshape(lanes, keys, values).to(decay.dtype)
    for c in reversed(range(count)):
        part = slice(c * lanes, (c + 1) * lanes)
        later = end if c == count - 1 else before[(c + 1) * lanes : (c + 2) * lanes]
        torch.sum(dnow * later, -1, out=dlast[part])
        scaled = torch.mul(dnow, last[part], out=dscaled[part])
        du[part].baddbmm_(writes[part, chunk:], scaled)
        dnow = dbefore[part].add_(scaled).baddbmm_(solved_reads[part].mT, du[part])
    dstate.copy_(dnow.view(batch, heads, keys, values).mT)

    dread[:, :chunk] = torch.bmm(solve.mT, du)
    dv = torch.bmm(scores[:, :, :chunk].mT, dread).baddbmm_(writes[:, :chunk], dscaled)
    dscores = torch.bmm(dread, carried.mT)
    _mask_(dscores, chunk)
    dreads = torch.bmm(dread, before.mT).baddbmm_(dscores, writes)
    dwrites = torch.bmm(carried, dscaled.mT).baddbmm_(dscores.mT, reads)

    # Every factor exp(+-sum of g) gives its row's gradient to all decays it sums over.
    products = reads * dreads
    lost = writes * dwrites
    excluded = products[:, :chunk]
    sums = products[:, chunk:] - lost[:, :chunk] - lost[:, chunk:] + excluded
    dg = torch.bmm(_ones(chunk, decay).mT, sums).sub_(excluded).add_(dlast[:, None])

    dreads[:, 1:chunk] *= decay[:, :-1]
    dreads[:, chunk:] *= decay
    dwrites.view(total, 2, chunk, keys).mul_(inverse_decay[:, None])
    parts = (dreads[:, chunk:], dg, dwrites[:, :chunk], dv, dreads[:, :chunk], dwrites[:, chunk:])
    for part, grad in zip(parts, grads, strict=True):
        _join(part, grad, count, chunk)


def invert(a: Tensor) -> Tensor:
    """(I - a)^-1 for strictly lower triangular a [n, L, L], L = 4 * 2^m.

    Blocks of 4 by substitution, then merged in pairs: the power series that doubles its length
    loses all digits once keys resemble each other, as they do in silence and in steady vowels.
    """
    total, size, _ = a.shape
    inverse = torch.zeros_like(a, memory_format=torch.contiguous_format)
    _invert_base(_diagonal_blocks(a, 4, 0), _diagonal_blocks(inverse, 4, 0))
    half = 4
    while half < size:
        x = _diagonal_blocks(inverse, 2 * half, 0)[..., :half, :half]
        y = _diagonal_blocks(inverse, 2 * half, 0)[..., half:, half:]
        below = _diagonal_blocks(a, 2 * half, half)[..., :half]
        product = torch.matmul(torch.matmul(y, below), x)
        _diagonal_blocks(inverse, 2 * half, half)[..., :half] = product
        half *= 2
    return inverse


def _invert_base(a: Tensor, inverse: Tensor) -> None:
    """Writes (I - a)^-1 of blocks [n, m, 4, 4] by forward substitution, entry by entry."""
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


def _ones(chunk: int, like: Tensor) -> Tensor:
    """Lower triangle of ones [n, L, L], whose product with rows is their inclusive sum."""
    ones = torch.ones(chunk, chunk, dtype=like.dtype, device=like.device).tril_()
    return ones.expand(like.shape[0], chunk, chunk)


def _mask_(scores: Tensor, chunk: int) -> None:
    """Zeros above the diagonal of the four blocks [2L, 2L]; the reads of a also lose theirs."""
    scores[:, :chunk, :chunk].tril_(-1)
    scores[:, :chunk, chunk:].tril_(-1)
    scores[:, chunk:, :chunk].tril_()
    scores[:, chunk:, chunk:].tril_()


def _split(x: Tensor, rows: Tensor, count: int, chunk: int) -> None:
    """Copies x [B, T, H, N] into rows [count * B * H, L, N], zeros beyond T."""
    batch, length, heads, size = x.shape
    into = rows.unflatten(0, (count, batch, heads))
    whole = length // chunk
    source = x[:, : whole * chunk].unflatten(1, (whole, chunk)) if whole else None
    if source is not None:
        into[:whole].copy_(source.permute(1, 0, 3, 2, 4))
    if whole < count:
        rest = length - whole * chunk
        into[whole, :, :, :rest].copy_(x[:, whole * chunk :].transpose(1, 2))
        into[whole, :, :, rest:].zero_()


def _join(rows: Tensor, x: Tensor, count: int, chunk: int) -> None:
    """Copies rows [count * B * H, L, N] into x [B, T, H, N]: ``_split`` backwards."""
    batch, length, heads, size = x.shape
    source = rows.unflatten(0, (count, batch, heads))
    whole = length // chunk
    if whole:
        into = x[:, : whole * chunk].unflatten(1, (whole, chunk))
        into.copy_(source[:whole].permute(1, 0, 3, 2, 4))
    if whole < count:
        rest = length - whole * chunk
        x[:, whole * chunk :].copy_(source[whole, :, :, :rest].transpose(1, 2))
