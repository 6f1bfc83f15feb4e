"""x W^T for few rows of x, readable, and the form that ``torch.compile`` makes fast."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("float32", "bfloat16", "int8")
"""How a matrix is kept. int8 has one scale for every row: w = scale * q, q in -127..127."""


def narrowed(matrix: Tensor, kind: str) -> tuple[Tensor, Tensor | None]:
    """matrix [R, C] as ``kind`` and, for int8, the scale of each row [R] float32.

    A row is divided by its largest number over 127 and rounded to even.
    """
    matrix = matrix.detach().to(torch.float32)
    if kind == "float32":
        return matrix, None
    if kind == "bfloat16":
        return matrix.to(torch.bfloat16), None
    if kind != "int8":
        raise ValueError(f"'{kind}' is none of {', '.join(KINDS)}")
    scale = matrix.abs().amax(1) / 127
    rows = matrix / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return rows.round().clamp(-127, 127).to(torch.int8), scale


def dequantized(matrix: Tensor, scale: Tensor | None) -> Tensor:
    """What ``narrowed`` left of a matrix, in float32."""
    return matrix.float() if scale is None else matrix.float() * scale[:, None]


def reference(x: Tensor, matrix: Tensor, scale: Tensor | None = None) -> Tensor:
    """x [B, C] and a matrix from ``narrowed`` -> x W^T [B, R], in float64."""
    return x.double() @ dequantized(matrix, scale).double().mT


def multiply_sum(x: Tensor, matrix: Tensor, scale: Tensor | None = None) -> Tensor:
    """The same for a compiler: it becomes one loop that reads each weight once.

    A product as such would go to the library's, which for a single row reads at half the speed of
    memory, and cannot read narrow weights at all. x [B, C] -> [B, R] in the type of x.
    """
    out = (matrix[None].to(x.dtype) * x[:, None]).sum(-1)
    return out if scale is None else out * scale.to(x.dtype)
