"""One position of a Transformer in few operations, in PyTorch: the twin of ``triton_step.py``.

B sequences, D channels, H query heads in G groups, heads of K numbers, caches with room for R
slots. Everything writes into memory that is there already, so that a CUDA graph can replay it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_add(
    x: Tensor, branch: Tensor | None, scale: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """x [B, D] += branch, in place -> its RMS norm times scale [D], of ``dtype``."""
    if branch is not None:
        x += branch
    return F.rms_norm(x, x.shape[-1:], scale, eps).to(dtype)


def norm_product(
    x: Tensor, scale: Tensor, eps: float, weight: Tensor, bias: Tensor | None, gated: bool = False
) -> Tensor:
    """``norm_add`` without a branch, then weight [O, D] and bias -> [B, O], or gated [B, O / 2]."""
    h = F.rms_norm(x, x.shape[-1:], scale, eps).to(weight.dtype)  # [B, D]
    out = F.linear(h, weight, bias)  # [B, O]
    return gate(out) if gated else out


def gate(x: Tensor) -> Tensor:
    """x [B, 2 F] -> silu of the first half times the second (arXiv 2002.05202, equation 6)."""
    first, second = x.chunk(2, dim=-1)  # [B, F] each
    return F.silu(first) * second


def attend(
    qkv: Tensor,
    key: Tensor,
    value: Tensor,
    length: Tensor,
    angles: tuple[Tensor, Tensor],
    limit: int,
    dtype: torch.dtype,
) -> Tensor:
    """Rotate queries and the new key, store key and value, attend to all slots so far -> [B, D].

    qkv [B, (H + 2 G) K]; key, value [B, G, R, K], in place, get slot ``length`` [B] of each row,
    the last slot where there is no more room. angles: cosines and sines [B, K / 2]. No row sees
    beyond ``limit`` slots.
    """
    batch, groups, room, size = key.shape
    heads = qkv.unflatten(-1, (-1, size))  # [B, H + 2 G, K]
    qk, values = heads.split((heads.shape[1] - groups, groups), dim=1)  # [B, H + G, K], [B, G, K]
    low, high = qk.float().chunk(2, dim=-1)  # [B, H + G, K / 2] each
    cosines, sines = (part[:, None] for part in angles)  # [B, 1, K / 2] each
    rotated = torch.cat((low * cosines - high * sines, high * cosines + low * sines), dim=-1)
    place = length.clamp(max=room - 1)  # [B]
    index = place[:, None, None, None].expand(-1, groups, 1, size)  # [B, G, 1, K]
    key.scatter_(2, index, rotated[:, -groups:, None].to(key.dtype))
    value.scatter_(2, index, values[:, :, None].to(value.dtype))
    queries = rotated[:, :-groups].to(key.dtype).unflatten(1, (groups, -1))  # [B, G, H / G, K]
    slots = torch.arange(limit, device=key.device)  # [S], S = limit
    visible = (slots <= place[:, None])[:, None, None]  # [B, 1, 1, S]
    y = F.scaled_dot_product_attention(
        queries, key[:, :, :limit], value[:, :, :limit], attn_mask=visible
    )  # [B, G, H / G, K]
    return y.flatten(1).to(dtype)
