"""One position of RWKV-7 in five operations, in PyTorch: the reference of ``triton_step.py``.

Everything between two matrix products is one operation, and every operation writes into memory that
is there already, so that a CUDA graph can replay a whole step. Symbols as in arXiv 2503.14456,
equations 4 to 22. B sequences, D channels, H heads of N, R the widest low-rank product.

Order of ``mix`` and of the products: r, k, v, then the low-rank w, a, v, g.

Checked against the step of plain PyTorch by ``tests/plugins/test_rwkv7_graph.py``;
``triton_step.py`` against this file by ``tests/kernels/test_step_kernels.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DECAY = math.exp(-0.5)
"""The strongest decay is exp(-DECAY) per position."""

SMALL = 4
"""Sequences up to which the matrix products are better made by the kernels that norm and mix; a
guess from counting launches, not a measurement."""

W0, A0, V0, K_K, K_A, R_K, NORM_WEIGHT, NORM_BIAS = range(8)
"""Rows of ``vectors`` [8, D]: the biases of decay, rate and value share, two scales of the key, the
bonus, and the norm of each head."""


def norm_mix(
    x: Tensor,
    branch: Tensor | None,
    shift: Tensor,
    norm: Tensor,
    eps: float,
    mix: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """x [B, D] += branch; h = its layer norm; -> h + (shift - h) * mix, [M, B, D] of ``dtype``.

    ``norm`` [2, D] is weight and bias, ``mix`` [M, D]. In place: x, and shift [B, D] becomes h.
    """
    if branch is not None:
        x += branch
    h = F.layer_norm(x, x.shape[-1:], norm[0], norm[1], eps)  # [B, D]
    mixed = torch.addcmul(h, shift.to(h.dtype) - h, mix[:, None])  # [M, B, D]
    shift.copy_(h)
    return mixed.to(dtype)


def mixed_product(
    x: Tensor,
    shift: Tensor,
    norm: Tensor,
    eps: float,
    mix: Tensor,
    weight: Tensor,
    rows: int,
    squared_relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute ``norm_mix`` and the matrix product after it -> [B, O] and h [B, D].

    x and shift stay untouched. Of ``weight`` [O, D], the first three times ``rows`` rows read the
    first three mixes, the others in equal parts the other mixes; with one mix all of it reads that.
    """
    h = F.layer_norm(x, x.shape[-1:], norm[0], norm[1], eps)  # [B, D]
    mixed = torch.addcmul(h, shift.to(h.dtype) - h, mix[:, None]).to(weight.dtype)  # [M, B, D]
    out = torch.cat(
        [F.linear(m, w) for m, w in zip(mixed, split(weight, len(mix), rows), strict=True)], dim=-1
    )  # [B, O]
    return torch.relu(out).square() if squared_relu else out, h


def split(weight: Tensor, mixes: int, rows: int) -> list[Tensor]:
    """Split ``weight`` [O, D] into the rows that read each mix."""
    if mixes == 1:
        return [weight]
    return [*weight[: 3 * rows].chunk(3), *weight[3 * rows :].chunk(mixes - 3)]


def product_add(
    y: Tensor, weight: Tensor, x: Tensor, h: Tensor | None = None, shift: Tensor | None = None
) -> None:
    """x [B, D] += weight [D, O] y [B, O]; shift becomes h where they are given. In place."""
    x += F.linear(y.to(weight.dtype), weight)  # [B, D]
    if h is not None and shift is not None:
        shift.copy_(h)


def squeeze_low(low: Tensor) -> None:
    """Squeeze low [4, B, R] in place: tanh of the decay's, sigmoid of the gate's."""
    low[0].tanh_()
    low[3].sigmoid_()


def squared_relu(x: Tensor) -> None:
    """Compute relu(x)^2 in place, x [B, F]."""
    x.relu_().square_()


def recur(
    rkv: Tensor,
    low: Tensor,
    vectors: Tensor,
    first: Tensor,
    state: Tensor,
    eps: float,
    leading: bool,
    up: Tensor | None = None,
    h: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute the input of the output matrix from the projections, [B, D] of ``dtype``.

    rkv [3, B, D]; low [4, B, D], or with ``up`` [4, D, R] the unsqueezed [4, B, R] that it
    multiplies; first [B, D] is v of the ``leading`` block, which writes it. state [B, H, V, K] in
    place, float32 or bfloat16: computed in float32, rounded when stored, y read before the
    rounding. shift [B, D] becomes h where they are given.
    """
    r, k, v = rkv.float()  # [B, D] each
    if up is not None:
        low = low.clone()  # [4, B, R]
        squeeze_low(low)
        low = torch.einsum("jbr,jdr->jbd", low.to(up.dtype), up)  # [4, B, D]
    low_w, low_a, low_v, gate = low.float()  # [B, D] each
    w0, a0, v0, k_k, k_a, r_k, norm_weight, norm_bias = vectors  # [D] each
    decay = torch.exp(torch.sigmoid(low_w + w0) * -DECAY)  # [B, D]
    a = torch.sigmoid(low_a + a0)  # [B, D]
    if leading:
        first.copy_(v)
    else:
        v = torch.lerp(v, first, torch.sigmoid(low_v + v0))  # [B, D]
    batch, heads = state.shape[:2]
    shape = (batch, heads, -1)
    direction = F.normalize((k * k_k).view(shape), dim=-1, eps=1e-12)  # [B, H, N]
    k = (k * (1 + (a - 1) * k_a)).view(shape)  # [B, H, N]
    r, v, a, decay = (t.reshape(shape) for t in (r, v, a, decay))  # [B, H, N] each
    old = state.float()  # [B, H, V, K]
    removed = (old @ -direction[..., None]) * (direction * a)[:, :, None]  # [B, H, V, K]
    new = old * decay[:, :, None] + removed + v[..., None] * k[:, :, None]  # [B, H, V, K]
    state.copy_(new)
    y = (new @ r[..., None])[..., 0]  # [B, H, V]
    y = F.layer_norm(y, y.shape[-1:], eps=eps).flatten(1) * norm_weight + norm_bias  # [B, D]
    bonus = (r * k * r_k.view(heads, -1)).sum(-1, keepdim=True)  # [B, H, 1]
    if h is not None and shift is not None:
        shift.copy_(h)
    return ((y + (bonus * v).flatten(1)) * gate).to(dtype)
