"""What surrounds the projections and WKV-7 in a block of RWKV-7, as plain formulas.

Symbols are those of arXiv 2503.14456, section 4. Every function computes in float32, in float64 if
an input is float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DECAY = math.exp(-0.5)
"""The strongest decay is exp(-DECAY) = 0.545 per position."""


def mix_reference(h: Tensor, before: Tensor, mix: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """h + (before - h) * m for every row m of ``mix`` [M, D], each [B, T, D] in ``dtype``.

    h [B, T, D]. before is the vector before each position [B, T, D], or [B, D] the one before the
    first; then every other position takes its neighbour's.
    """
    if before.ndim == 2:
        before = torch.cat([before.to(h.dtype)[:, None], h[:, :-1]], 1)
    kind = torch.float64 if h.dtype == torch.float64 else torch.float32
    x, difference = h.to(kind), before.to(kind) - h.to(kind)
    return [torch.addcmul(x, difference, row.to(kind)).to(dtype) for row in mix]


def prepare_reference(
    k: Tensor,
    low_w: Tensor,
    low_a: Tensor,
    w0: Tensor,
    a0: Tensor,
    k_k: Tensor,
    k_a: Tensor,
    heads: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What WKV-7 is given beside r and v: log decay, key, -direction, direction * rate.

    k, low_w, low_a [B, T, D], the vectors [D]; results [B, T, H, N], the first in at least
    float32, the others in ``dtype``.
    """
    kind = torch.float64 if k.dtype == torch.float64 else torch.float32
    k, low_w, low_a = (x.to(kind).unflatten(-1, (heads, -1)) for x in (k, low_w, low_a))
    w0, a0, k_k, k_a = (x.to(kind).view(heads, -1) for x in (w0, a0, k_k, k_a))
    g = -DECAY * torch.sigmoid(low_w + w0)
    rate = torch.sigmoid(low_a + a0)
    direction = F.normalize(k * k_k, dim=-1, eps=1e-12)
    key = k * (1 + (rate - 1) * k_a)
    return g, key.to(dtype), (-direction).to(dtype), (direction * rate).to(dtype)


def finish_reference(
    y: Tensor,
    r: Tensor,
    key: Tensor,
    v: Tensor,
    gate: Tensor,
    r_k: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> Tensor:
    """(norm(y) + (r . key r_k) v) * gate: the norm of each head, the bonus and the gate.

    y, key [B, T, H, N]; r, v, gate [B, T, D]; r_k [H, N], weight and bias [D]. Result [B, T, D] in
    the type of r.
    """
    heads, size = r_k.shape
    kind = torch.float64 if r.dtype == torch.float64 else torch.float32
    dtype = r.dtype
    r, v, gate = (x.to(kind).unflatten(-1, (heads, -1)) for x in (r, v, gate))
    y, key, r_k = y.to(kind), key.to(kind), r_k.to(kind)
    normed = F.layer_norm(y, (size,), eps=eps) * weight.to(kind).view(heads, -1)
    bonus = (r * key * r_k).sum(-1, keepdim=True)
    out = (normed + bias.to(kind).view(heads, -1) + bonus * v) * gate
    return out.flatten(-2).to(dtype)


def squared_relu_reference(x: Tensor) -> Tensor:
    """relu(x)^2."""
    return torch.relu(x).square()
