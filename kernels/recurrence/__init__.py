"""Memories that are matrices: one function for linear attention, RetNet, GLA, DeltaNet and more."""

from __future__ import annotations

import torch
from torch import Tensor

from wishbone.kernels.precision import compute_dtype
from wishbone.kernels.recurrence.plain import Plain
from wishbone.kernels.recurrence.reference import expand, recurrence_reference
from wishbone.kernels.recurrence.scan import Scan
from wishbone.kernels.wkv7 import triton_missing
from wishbone.kernels.wkv7.chunked import shorter

__all__ = ["available", "recurrence", "recurrence_reference"]

CHUNK = {"none": 64, "head": 32, "channel": 32, "delta": 32}
"""Positions per chunk of each form; the fastest on a CPU for heads of 64 (``measure``)."""

LOWEST = {torch.float32: -20.0, torch.float64: -40.0}
"""Logarithm of the strongest decay: less than that remains of a state cannot be seen beside 1."""


def recurrence(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute what ``recurrence_reference`` describes, in chunks, with backward passes of its own.

    Shapes as there; any g <= 0, which is cut off at e^-20 (float64: e^-40). Outputs are the same to
    the last bit whatever follows. ``chunk`` is 4, 8, 16, 32 or 64, or 0 for the fastest form, which
    on a GPU is that of ``triton.py``. Raises ``ValueError`` for another. Not differentiable twice.
    """
    if chunk not in (0, 4, 8, 16, 32, 64):
        raise ValueError(f"chunk length {chunk}: must be 4, 8, 16, 32 or 64")
    if k.is_cuda and k.shape[1] > 1 and not chunk and not triton_missing():
        from wishbone.kernels.recurrence.triton import recurrence_triton, unfit

        if not unfit(r, k, v, g, a, b, state):
            return recurrence_triton(r, k, v, g, a, b, state, lengths)
    kind = compute_dtype(r, k, v, g, a, b, state)
    batch, length, heads, values = v.shape
    if state is None:
        state = torch.zeros(batch, heads, values, k.shape[-1], dtype=kind, device=k.device)
    state = state.to(kind)  # [B, H, V, K]
    if not length:
        return v, state
    with torch.autocast(k.device.type, enabled=False):
        r, k, v_kind = r.to(kind), k.to(kind), v.to(kind)  # [B, T, H', K] twice, [B, T, H, V]
        a = None if a is None else a.to(kind)  # [B, T, H', K]
        b = None if b is None else b.to(kind)  # [B, T, H', K]
        g = None if g is None else g.to(kind).clamp_min(LOWEST[kind])  # [B, T, H] or with K
        if lengths is not None:
            k, g, b = _still(lengths, k, g, b)
        form = _position if length == 1 else _chunks
        y, after = form(r, k, v_kind, g, a, b, state, chunk)  # [B, T, H, V], [B, H, V, K]
    return y.to(v.dtype), after


def _still(lengths: Tensor, *inputs: Tensor | None) -> list[Tensor | None]:
    """Put zeros behind the real positions of inputs [B, T, ...]: the state stays as it is."""
    length = next(x.shape[1] for x in inputs if x is not None)
    behind = torch.arange(length, device=lengths.device) >= lengths[:, None]  # [B, T]
    return [
        None if x is None else x.masked_fill(behind.view(*behind.shape, *(1,) * (x.ndim - 2)), 0)
        for x in inputs
    ]


def _chunks(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Choose the form by the decay and the correction."""
    decay = "none" if g is None else "head" if g.ndim == 3 else "channel"
    length, heads = v.shape[1:3]
    size = shorter(chunk or CHUNK["delta" if a is not None else decay], length)
    if a is None and decay != "channel":
        return Plain.apply(r, k, v, g, state, size)
    r, k, a, b = (expand(x, heads, v.dtype) for x in (r, k, a, b))  # [B, T, H, K] each
    g = expand(g, heads, v.dtype) if decay == "channel" else g  # [B, T, H, K] or [B, T, H]
    return Scan.apply(r, k, v, g, a, b, state, size)


def _position(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Compute one position, in few operations: their number is what a small step costs."""
    batch, _, heads, values = v.shape
    r, k, a, b = (expand(x, heads, v.dtype) for x in (r, k, a, b))  # [B, 1, H, K] each
    lanes = (batch * heads, 1, -1)
    before = state.flatten(0, 1)  # [B H, V, K]
    column = v.reshape(batch * heads, values, 1)  # [B H, V, 1]
    row = k.reshape(lanes)  # [B H, 1, K]
    now = before
    if g is not None:
        g = g if g.ndim == 3 else expand(g, heads, v.dtype)  # [B, 1, H] or [B, 1, H, K]
        now = before * g.exp().reshape(lanes)  # [B H, V, K]
    if a is not None and b is not None:
        removed = torch.bmm(before, a.reshape(batch * heads, -1, 1))  # [B H, V, 1]
        column = torch.cat((removed, column), 2)  # [B H, V, 2]
        row = torch.cat((b.reshape(lanes), row), 1)  # [B H, 2, K]
    now = torch.baddbmm(now, column, row)  # [B H, V, K]
    y = torch.bmm(now, r.reshape(batch * heads, -1, 1))  # [B H, V, 1]
    return y.view(v.shape), now.view_as(state)


def available() -> dict[str, str]:
    """Return form -> why it cannot run on this machine; PyTorch's operations run everywhere."""
    return {"reference": "", "torch": "", "triton": triton_missing()}
