"""What happens between the projections of time mixing: arXiv 2503.14456, equations 4 to 22."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from wishbone.kernels.elementwise import DECAY as DECAY
from wishbone.kernels.elementwise import finish, prepare
from wishbone.kernels.wkv7 import wkv7


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
    r, k, v, low_w, low_a, gate = projected
    heads = weights.r_k.shape[0]
    # On a GPU the traffic counts, and the kernels there round to the type of r anyway.
    kind = r.dtype if r.is_cuda else wkv.dtype
    log_decay, key, removing, adding = prepare(
        k, low_w, low_a, weights.w0, weights.a0, weights.k_k, weights.k_a, heads, kind
    )
    split = (heads, -1)
    r_heads, v_heads = r.unflatten(-1, split), v.unflatten(-1, split)
    y, after = wkv7(r_heads, log_decay, key, v_heads, removing, adding, wkv, mask)
    norm = (weights.norm_weight, weights.norm_bias, eps)
    return finish(y, r, key, v, gate, weights.r_k, *norm), after
