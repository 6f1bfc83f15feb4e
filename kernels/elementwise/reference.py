"""The formulas around the projections and WKV-7 in a block of RWKV-7.

Symbols are those of arXiv 2503.14456, section 4. B sequences, T positions, D channels, H heads of
N. Every function computes in float32, in float64 if an input is float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DECAY = math.exp(-0.5)
"""The strongest decay is exp(-DECAY) = 0.545 per position."""


def mix_reference(h: Tensor, before: Tensor, mix: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Shift tokens: h + (before - h) * m for every row m of ``mix`` [M, D] -> [B, T, D] each.

    h [B, T, D]. before is the vector before each position [B, T, D], or [B, D] the one before the
    first; then every other position takes its neighbour's. Results are of ``dtype``.
    """
    if before.ndim == 2:
        before = torch.cat([before.to(h.dtype)[:, None], h[:, :-1]], 1)  # [B, T, D]
    kind = torch.float64 if h.dtype == torch.float64 else torch.float32
    x, difference = h.to(kind), before.to(kind) - h.to(kind)  # [B, T, D] each
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
    """Compute the inputs of WKV-7 beside r and v: log decay, key, -direction, direction * rate.

    k, low_w, low_a [B, T, D], the vectors [D]; results [B, T, H, N], the first in at least
    float32, the others in ``dtype``.
    """
    kind = torch.float64 if k.dtype == torch.float64 else torch.float32
    split = (heads, -1)
    k, low_w, low_a = (x.to(kind).unflatten(-1, split) for x in (k, low_w, low_a))  # [B, T, H, N]
    w0, a0, k_k, k_a = (x.to(kind).view(heads, -1) for x in (w0, a0, k_k, k_a))  # [H, N] each
    g = -DECAY * torch.sigmoid(low_w + w0)  # [B, T, H, N]
    rate = torch.sigmoid(low_a + a0)  # [B, T, H, N]
    direction = F.normalize(k * k_k, dim=-1, eps=1e-12)  # [B, T, H, N]
    key = k * (1 + (rate - 1) * k_a)  # [B, T, H, N]
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
    """Compute (norm(y) + (r . key r_k) v) * gate: the norm of each head, the bonus and the gate.

    y, key [B, T, H, N]; r, v, gate [B, T, D]; r_k [H, N], weight and bias [D]. Result [B, T, D] in
    the type of r.
    """
    heads, size = r_k.shape
    kind = torch.float64 if r.dtype == torch.float64 else torch.float32
    dtype = r.dtype
    r, v, gate = (x.to(kind).unflatten(-1, (heads, -1)) for x in (r, v, gate))  # [B, T, H, N]
    y, key, r_k = y.to(kind), key.to(kind), r_k.to(kind)  # [B, T, H, N] twice, [H, N]
    normed = F.layer_norm(y, (size,), eps=eps) * weight.to(kind).view(heads, -1)  # [B, T, H, N]
    bonus = (r * key * r_k).sum(-1, keepdim=True)  # [B, T, H, 1]
    out = (normed + bias.to(kind).view(heads, -1) + bonus * v) * gate  # [B, T, H, N]
    return out.flatten(-2).to(dtype)


def squared_relu_reference(x: Tensor) -> Tensor:
    """Compute relu(x)^2, x [..., F]."""
    return torch.relu(x).square()
