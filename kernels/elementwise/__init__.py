"""The work between the matrix products of RWKV-7: a formula each, and a kernel for GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from wishbone.kernels.elementwise.reference import (
    DECAY,
    finish_reference,
    mix_reference,
    prepare_reference,
    squared_relu_reference,
)
from wishbone.kernels.wkv7 import triton_missing

__all__ = ["DECAY", "available", "finish", "fused", "mix", "prepare", "squared_relu"]

SIZES = (16, 32, 64, 128, 256)
"""Numbers per head that a tile of the kernels may be wide."""


def fused(x: Tensor, size: int = 16) -> bool:
    """True where the kernels work on x, with ``size`` numbers per head."""
    return x.is_cuda and x.dtype != torch.float64 and size in SIZES and not triton_missing()


def mix(h: Tensor, before: Tensor, mix: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Token shift: see ``mix_reference``."""
    if fused(h):
        from wishbone.kernels.elementwise import operators

        return operators.mix(h, before, mix, dtype)
    return mix_reference(h, before, mix, dtype)


def prepare(
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
    """Decay, key, and the rows that remove: see ``prepare_reference``."""
    if fused(k, k.shape[-1] // heads):
        from wishbone.kernels.elementwise import operators

        return operators.prepare(k, low_w, low_a, w0, a0, k_k, k_a, heads, dtype)
    return prepare_reference(k, low_w, low_a, w0, a0, k_k, k_a, heads, dtype)


def finish(
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
    """Norm per head, bonus and gate: see ``finish_reference``."""
    if fused(r, r_k.shape[-1]):
        from wishbone.kernels.elementwise import operators

        return operators.finish(y, r, key, v, gate, r_k, weight, bias, eps)
    return finish_reference(y, r, key, v, gate, r_k, weight, bias, eps)


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)^2 with one kernel each way on a GPU."""
    if fused(x):
        from wishbone.kernels.elementwise import operators

        return operators.squared_relu(x)
    return squared_relu_reference(x)


def available() -> dict[str, str]:
    """Return form -> why it cannot run on this machine; an empty string where it can."""
    return {"reference": "", "triton": triton_missing()}
