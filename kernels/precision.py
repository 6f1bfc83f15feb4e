"""The type that kernels with a long memory compute in."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(*inputs: Tensor | None) -> torch.dtype:
    """Return float64 if any input is, else float32: half precision would ruin a long sum."""
    double = any(x is not None and x.dtype == torch.float64 for x in inputs)
    return torch.float64 if double else torch.float32
