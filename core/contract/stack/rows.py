"""What most mixers need: rows of different lengths whose real positions stand at the front."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of recurrent memory in a model of ``dtype``: float32, or float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def real_positions(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    """lengths [B], x [B, T, ...] -> mask [B, T], true at real positions; None where all are."""
    if lengths is None:
        return None
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # [B, T]


def last_inputs(before: Tensor, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Put the last inputs of earlier calls before x, as a shift or a causal convolution wants it.

    before [B, W, C], x [B, T, C] -> joined [B, W + T, C], and the last W real ones [B, W, C], which
    are ``before`` of the next call.
    """
    width = before.shape[1]
    joined = torch.cat([before.to(x.dtype), x], 1)  # [B, W + T, C]
    if lengths is None:
        after = joined[:, joined.shape[1] - width :]  # [B, W, C]
    else:
        offsets = torch.arange(width, device=x.device)  # [W]
        index = (lengths[:, None] + offsets)[..., None].expand(-1, -1, x.shape[2])  # [B, W, C]
        after = joined.gather(1, index)  # [B, W, C]
    return joined, after.to(before.dtype).clone()
