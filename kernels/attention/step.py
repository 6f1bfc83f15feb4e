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
    h = F.rms_norm(x, x.shape[-1:], scale, eps).to(weight.dtype)
    out = F.linear(h, weight, bias)
    return gate(out) if gated else out


def gate(x: Tensor) -> Tensor:
    """x [B, 2 F] -> silu of the first half times the second (arXiv 2002.05202, equation 6)."""
    first, second = x.chunk(2, dim=-1)
    return F.silu(first) * second


def attend(
    qkv: Tensor,
    key: Tensor,
    value: Tensor,
    length: Tensor,
    angles: tuple[Tensor, Tensor],
    seen: int,
    dtype: torch.dtype,
) -> Tensor:
    """Turn queries and the new key, keep key and value, attend to all slots so far -> [B, D].

    qkv [B, (H + 2 G) K]; key, value [B, G, R, K], in place, get slot ``length`` [B] of each row,
    the last slot where there is no more room. angles: cosines and sines [B, K / 2]. No row sees
    beyond ``seen`` slots.
    """
    batch, groups, room, size = key.shape
    heads = qkv.unflatten(-1, (-1, size))
    turning, values = heads.split((heads.shape[1] - groups, groups), dim=1)
    low, high = turning.float().chunk(2, dim=-1)
    cosines, sines = (part[:, None] for part in angles)
    turned = torch.cat((low * cosines - high * sines, high * cosines + low * sines), dim=-1)
    place = length.clamp(max=room - 1)
    index = place[:, None, None, None].expand(-1, groups, 1, size)
    key.scatter_(2, index, turned[:, -groups:, None].to(key.dtype))
    value.scatter_(2, index, values[:, :, None].to(value.dtype))
    queries = turned[:, :-groups].to(key.dtype).unflatten(1, (groups, -1))
    slots = torch.arange(seen, device=key.device)
    visible = (slots <= place[:, None])[:, None, None]
    y = F.scaled_dot_product_attention(
        queries, key[:, :, :seen], value[:, :, :seen], attn_mask=visible
    )
    return y.flatten(1).to(dtype)
