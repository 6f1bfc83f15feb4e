"""The recurrence of all matrix memories, one position after another: the form to read."""

from __future__ import annotations

import torch
from torch import Tensor

from wishbone.kernels.precision import compute_dtype


def recurrence_reference(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decay, correct, write, read, with rows of S indexed by value and columns by key.

    Per head, at each position::

        S <- S diag(exp g) + (S a) b^T + v k^T
        y  = S r

    r, k, a, b [B, T, H', K] and v [B, T, H, V], where H' divides H: several heads in a row may
    share them. g, the natural logarithm of the decay, is at most 0: [B, T, H] for one number a
    head, [B, T, H', K] for one a key channel, None for no decay. a and b come together or not at
    all. state [B, H, V, K] comes before the first position, zeros when absent. lengths [B]: from
    there on positions read the state but leave it alone; None for none.

    Computes in float64 if any input is, else in float32. Returns y [B, T, H, V] in the type of v,
    and the state.
    """
    kind = compute_dtype(r, k, v, g, a, b, state)
    batch, length, heads, _ = v.shape
    per_head = g is not None and g.ndim == 3
    r, k, a, b = (expand(x, heads, kind) for x in (r, k, a, b))  # [B, T, H, K] each
    if per_head:
        g = g[..., None].to(kind)  # [B, T, H, 1]
    else:
        g = expand(g, heads, kind)  # [B, T, H, K]
    values = v.to(kind)  # [B, T, H, V]
    if state is None:
        state = k.new_zeros(batch, heads, v.shape[-1], k.shape[-1])  # [B, H, V, K]
    state = state.to(kind)  # [B, H, V, K]
    outputs = []
    for t in range(length):
        after = state  # [B, H, V, K]
        if g is not None:
            after = after * g[:, t, :, None, :].exp()  # [B, H, V, K]
        if a is not None and b is not None:
            removed = state @ a[:, t, :, :, None]  # [B, H, V, 1]
            after = after + removed * b[:, t, :, None, :]  # [B, H, V, K]
        after = after + values[:, t, :, :, None] * k[:, t, :, None, :]  # [B, H, V, K]
        if lengths is not None:
            after = torch.where((t < lengths)[:, None, None, None], after, state)  # [B, H, V, K]
        state = after
        outputs.append((state @ r[:, t, :, :, None]).squeeze(-1))  # [B, H, V]
    y = torch.stack(outputs, 1) if outputs else torch.zeros_like(values)  # [B, T, H, V]
    return y.to(v.dtype), state


def expand(x: Tensor | None, heads: int, kind: torch.dtype) -> Tensor | None:
    """x [B, T, H', K] -> [B, T, H, K] of type ``kind``, each of H' several times in a row."""
    if x is None:
        return None
    times = heads // x.shape[2]
    return (x if times == 1 else x.repeat_interleave(times, 2)).to(kind)
