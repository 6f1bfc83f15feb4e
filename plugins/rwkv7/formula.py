"""What happens between the projections of time mixing: arXiv 2503.14456, equations 4 to 22."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.kernels.wkv7 import wkv7

DECAY = math.exp(-0.5)
"""The strongest decay is exp(-DECAY) = 0.545 per position."""


class Weights(NamedTuple):
    """The vectors, each of D numbers, heads one after another; r_k is [H, N]."""

    w0: Tensor
    a0: Tensor
    k_k: Tensor
    k_a: Tensor
    r_k: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


def attend(
    projected: tuple[Tensor, ...], weights: Weights, wkv: Tensor, mask: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Decay, in-context learning rate, WKV, norm per head, bonus and gate.

    projected is r, k, v, low_w, low_a, gate, each [B, T, D]: the last three are the low-rank
    products without the bias that belongs inside the sigmoid. wkv [B, H, V, K], mask [B, T].
    Returns [B, T, D] in the type of r and the state after.
    """
    full = wkv.dtype
    r, k, v, low_w, low_a, gate = (x.unflatten(-1, (weights.r_k.shape[0], -1)) for x in projected)
    w0, a0, k_k, k_a, r_k, norm_weight, norm_bias = (x.view_as(weights.r_k) for x in weights)
    log_decay = -DECAY * torch.sigmoid(low_w.to(full) + w0)
    a = torch.sigmoid(low_a.to(full) + a0)
    k = k.to(full)
    direction = F.normalize(k * k_k, dim=-1, eps=1e-12)
    k = k * (1 + (a - 1) * k_a)
    y, after = wkv7(r, log_decay, k, v, -direction, direction * a, wkv, mask)
    y = F.layer_norm(y.to(full), y.shape[-1:], eps=eps) * norm_weight + norm_bias
    bonus = (r * k * r_k).sum(-1, keepdim=True)
    return ((y + bonus * v) * gate).flatten(-2).to(projected[0].dtype), after
