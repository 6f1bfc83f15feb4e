"""What is between the projections of RWKV-7's time mixing, one formula after another.

``engines/fused_backward.py`` computes the same in slices, for CPUs. The equations are in
``layers.py``.
"""

from __future__ import annotations

from torch import Tensor

from wishbone.kernels.elementwise import finish, prepare
from wishbone.kernels.wkv7 import wkv7
from wishbone.plugins.rwkv7.engines.fused_backward import Vectors


def attend(
    projected: tuple[Tensor, ...], vectors: Vectors, wkv: Tensor, mask: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Decay, in-context learning rate, WKV, norm per head, bonus and gate.

    projected is r, k, v, low_w, low_a, gate, each [B, T, D]: the low ones are the low-rank
    products without the bias that belongs inside the sigmoid. wkv [B, H, V, K], mask [B, T].
    Returns [B, T, D] in the type of r and the state after. The formulas of ``prepare`` and
    ``finish`` are in ``kernels/elementwise/reference.py``, that of ``wkv7`` in
    ``kernels/wkv7/reference.py``.
    """
    r, _, v, _, _, gate = projected  # [B, T, D] each
    inputs = written(projected, vectors, wkv)
    y, after = wkv7(*inputs, wkv, mask)  # [B, T, H, V], [B, H, V, K]
    key = inputs[2]  # [B, T, H, K]
    norm = (vectors.norm_weight, vectors.norm_bias, eps)
    return finish(y, r, key, v, gate, vectors.r_k, *norm), after


def written(
    projected: tuple[Tensor, ...], vectors: Vectors, wkv: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute r, g, k, v, a, b of ``wkv7``, [B, T, H, K] each; arguments as in ``attend``."""
    r, k, v, low_w, low_a, _ = projected  # [B, T, D] each
    heads = vectors.r_k.shape[0]
    # On a GPU the traffic counts, and the kernels there round to the type of r anyway.
    kind = r.dtype if r.is_cuda else wkv.dtype
    g, key, a, b = prepare(
        k, low_w, low_a, vectors.w0, vectors.a0, vectors.k_k, vectors.k_a, heads, kind
    )  # [B, T, H, K] each
    r, v = r.unflatten(-1, (heads, -1)), v.unflatten(-1, (heads, -1))  # [B, T, H, K] each
    return r, g, key, v, a, b
