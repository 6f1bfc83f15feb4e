"""The WKV-7 recurrence, one position after another: the form to read and to test against."""

from __future__ import annotations

import torch
from torch import Tensor

from wishbone.kernels.precision import compute_dtype


def wkv7_reference(
    r: Tensor,
    g: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the generalised delta rule of RWKV-7 (arXiv 2503.14456, equation 17).

    r, g, k, a, b [B, T, H, K] and v [B, T, H, V]; g is the natural logarithm of the decay.
    state [B, H, V, K] comes before the first position, zeros when absent. mask [B, T] is true at
    real positions; others read the state but leave it alone. Per head, with rows of S
    indexed by value and columns by key::

        S <- S diag(exp g) + (S a) b^T + v k^T
        y  = S r

    Computes in float64 if any input is, else in float32. Returns y [B, T, H, V], state.
    """
    kind = compute_dtype(r, g, k, v, a, b)
    out_dtype = r.dtype
    r, g, k, v, a, b = (x.to(kind) for x in (r, g, k, v, a, b))  # [B, T, H, K], v [B, T, H, V]
    batch, length, heads, keys = k.shape
    if state is None:
        state = k.new_zeros(batch, heads, v.shape[-1], keys)  # [B, H, V, K]
    state = state.to(kind)  # [B, H, V, K]
    outputs = []
    for t in range(length):
        removed = (state @ a[:, t, :, :, None]) * b[:, t, :, None, :]  # [B, H, V, K]
        written = v[:, t, :, :, None] * k[:, t, :, None, :]  # [B, H, V, K]
        after = state * g[:, t, :, None, :].exp() + removed + written  # [B, H, V, K]
        if mask is not None:
            after = torch.where(mask[:, t, None, None, None], after, state)  # [B, H, V, K]
        state = after
        outputs.append((state @ r[:, t, :, :, None]).squeeze(-1))  # [B, H, V]
    y = torch.stack(outputs, 1) if outputs else torch.zeros_like(v)  # [B, T, H, V]
    return y.to(out_dtype), state
