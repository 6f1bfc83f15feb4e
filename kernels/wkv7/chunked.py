"""WKV-7 in chunks: everything inside a chunk is matrix products, only the state is sequential.

The mathematics, with the same symbols, is in README.md beside this file. Checked against
``wkv7_reference``, outputs and every gradient, by ``tests/kernels/test_wkv7.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wishbone.kernels.precision import compute_dtype
from wishbone.kernels.wkv7.rows import Residuals, Rows, scan, scan_backward

CHUNK = 32
"""Positions per chunk; the fastest on a CPU for heads of 64 (``measure``)."""

LONGEST = 64
"""exp(0.6065 * 64) is 7e16; float32 ends at 3e38, half of it in the exponent for products."""

LOWEST = {4: -20.0, 8: -10.0, 16: -5.0, 32: -2.0, LONGEST: -1.3}
"""Least g of a chunk length in float32, forward and backward; in float64 eight times as much."""

SLICE = 1 << 18
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
    """Compute the same function as ``wkv7_reference``, with its own backward pass.

    Shapes as there. ``chunk`` is 4, 8, 16, 32 or 64. A chunk divides by the decay of all its
    positions together: that holds for g down to ``LOWEST``, and RWKV-7's is never below -0.6066.
    Raises ``ValueError`` for another chunk length, or a g below. Not differentiable twice.
    """
    if chunk not in (4, 8, 16, 32, LONGEST):
        raise ValueError(f"chunk length {chunk}: must be 4, 8, 16, 32 or {LONGEST}")
    batch, length, heads, keys = k.shape
    chunk = shorter(chunk, length)
    kind = compute_dtype(r, g, k, v, a, b)
    if mask is not None:
        hole = ~mask[:, :, None, None]  # [B, T, 1, 1]
        g, k, b = (x.masked_fill(hole, 0) for x in (g, k, b))  # [B, T, H, K] each
    refuse_strong(g, chunk, kind)
    if state is None:
        state = torch.zeros(batch, heads, v.shape[-1], keys, dtype=kind, device=k.device)
    if not length:
        return torch.zeros_like(v), state
    y, after = _Chunked.apply(r, g, k, v, a, b, state, chunk)  # [B, T, H, V], [B, H, V, K]
    return y, after


class _Chunked(torch.autograd.Function):
    """Cuts the batch into slices, each into rows, and lets ``scan`` work on those."""

    @staticmethod
    def forward(ctx: Any, r, g, k, v, a, b, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        kind = compute_dtype(r, g, k, v, a, b, state)
        y = torch.empty(v.shape, dtype=r.dtype, device=v.device)  # [B, T, H, V]
        after = torch.empty(state.shape, dtype=kind, device=state.device)  # [B, H, V, K]
        saved: list[Tensor] = []
        for part in slices(k):
            inputs = [x[part] for x in (r, g, k, v, a, b)]
            rows = Rows(len(inputs[0]), k.shape[1], k.shape[2], chunk)
            with torch.autocast(k.device.type, enabled=False):
                residuals = _forward(rows, inputs, state[part].to(kind), y[part], after[part])
            saved += residuals.tensors() if any(ctx.needs_input_grad) else []
        ctx.save_for_backward(*saved)
        ctx.chunk = chunk
        ctx.shapes = [x.shape for x in (r, g, k, v, a, b, state)]
        ctx.dtypes = [x.dtype for x in (r, g, k, v, a, b, state)]
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dafter: Tensor) -> tuple[Tensor | None, ...]:
        grads = [
            torch.empty(shape, dtype=dtype, device=dy.device)
            for shape, dtype in zip(ctx.shapes, ctx.dtypes, strict=True)
        ]
        parts = slices(grads[2])
        # Checkpointing hands the tensors out once.
        saved = ctx.saved_tensors
        per_slice = len(saved) // len(parts)
        for index, part in enumerate(parts):
            residuals = Residuals(*saved[index * per_slice : (index + 1) * per_slice])
            rows = Rows(len(dy[part]), dy.shape[1], dy.shape[2], ctx.chunk)
            with torch.autocast(dy.device.type, enabled=False):
                _backward(rows, residuals, dy[part], dafter[part], [x[part] for x in grads])
        return (*grads, None)


def refuse_strong(g: Tensor, chunk: int, kind: torch.dtype) -> None:
    """Raise ``ValueError`` where a chunk of ``kind`` cannot divide by a decay g [B, T, H, K].

    A shorter chunk chosen by the data would change the rounding of positions before a strong decay,
    and a limit on g the function. On a GPU, and while a graph is traced, nothing looks.
    """
    if g.device.type != "cpu" or not g.numel() or torch.compiler.is_compiling():
        return
    limit = LOWEST[chunk] * (8 if kind == torch.float64 else 1)
    lowest = g.detach().amin().item()
    if lowest < limit:
        raise ValueError(
            f"g goes down to {lowest:.3g}; chunks of {chunk} positions are right from {limit} on. "
            "Take wishbone.kernels.recurrence, which has no limit, or a shorter chunk."
        )


def shorter(chunk: int, length: int) -> int:
    """Return a chunk no longer than ``length`` positions fill."""
    while chunk > 4 and chunk // 2 >= length:
        chunk //= 2
    return chunk


def slices(x: Tensor) -> list[slice]:
    """Cut the batch of x [B, ...] into parts of about ``SLICE`` numbers; one part on a GPU."""
    step = len(x) if x.is_cuda else max(1, SLICE // max(1, x[0].numel()))
    return [slice(start, start + step) for start in range(0, len(x), step)]


def _forward(
    rows: Rows, inputs: list[Tensor], state: Tensor, y: Tensor, after: Tensor
) -> Residuals:
    """Compute one slice of the batch: writes y [B, T, H, V] and the final state [B, H, V, K]."""
    r, g, k, v, a, b = inputs  # [B, T, H, K] each, v [B, T, H, V]
    size, keys = rows.chunk, k.shape[-1]
    g_rows = rows.new(after, 1, keys)  # [n, L, K]
    reads, writes = rows.new(after, 2, keys), rows.new(after, 2, keys)  # [n, 2 L, K] each
    carried = rows.new(after, 2, v.shape[-1])  # [n, 2 L, V]
    rows.split(g, g_rows)
    rows.split(a, reads[:, :size])
    rows.split(r, reads[:, size:])
    rows.split(k, writes[:, :size])
    rows.split(b, writes[:, size:])
    rows.split(v, carried[:, :size])
    start = state.mT.flatten(0, 1).contiguous()  # [B H, K, V]
    out, residuals = scan(rows, g_rows, reads, writes, carried, start)  # [n, L, V]
    rows.join(out, y)
    after.copy_(residuals.after.mT.unflatten(0, (rows.batch, rows.heads)))
    return residuals


def _backward(
    rows: Rows, residuals: Residuals, dy: Tensor, dafter: Tensor, grads: list[Tensor]
) -> None:
    """Compute one slice of the batch: writes the gradients of r, g, k, v, a, b and the state."""
    size = rows.chunk
    dread = rows.new(residuals.decay, 2, dy.shape[-1])  # [n, 2 L, V]
    rows.split(dy, dread[:, size:])
    after = dafter.mT.flatten(0, 1).to(residuals.decay.dtype)  # [B H, K, V]
    grad = scan_backward(rows, residuals, dread, after.contiguous())
    dr, dg, dk, dv, da, db, dstate = grads
    rows.join(grad.reads[:, size:], dr)
    rows.join(grad.g, dg)
    rows.join(grad.writes[:, :size], dk)
    rows.join(grad.v, dv)
    rows.join(grad.reads[:, :size], da)
    rows.join(grad.writes[:, size:], db)
    dstate.copy_(grad.state.mT.unflatten(0, (rows.batch, rows.heads)))
