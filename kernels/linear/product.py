"""x W^T for few rows of x, readable: narrow weights, and the product to test against."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("float32", "bfloat16", "int8")
"""Types a matrix is stored in. int8 has one scale for every row: w = scale * q, q in -127..127."""


def narrowed(matrix: Tensor, kind: str) -> tuple[Tensor, Tensor | None]:
    """Store matrix [R, C] as ``kind`` -> it and, for int8, the scale of each row [R] float32.

    A row is divided by its largest number over 127 and rounded to even.
    """
    matrix = matrix.detach().to(torch.float32)  # [R, C]
    if kind == "float32":
        return matrix, None
    if kind == "bfloat16":
        return matrix.to(torch.bfloat16), None
    if kind != "int8":
        raise ValueError(f"'{kind}' is none of {', '.join(KINDS)}")
    scale = matrix.abs().amax(1) / 127  # [R]
    rows = matrix / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]  # [R, C]
    return rows.round().clamp(-127, 127).to(torch.int8), scale


def dequantized(matrix: Tensor, scale: Tensor | None) -> Tensor:
    """Return a matrix [R, C] in float32 as ``narrowed`` rounded it."""
    return matrix.float() if scale is None else matrix.float() * scale[:, None]


def reference(x: Tensor, matrix: Tensor, scale: Tensor | None = None) -> Tensor:
    """Multiply x [B, C] by a matrix from ``narrowed`` -> x W^T [B, R], in float64."""
    return x.double() @ dequantized(matrix, scale).double().mT
