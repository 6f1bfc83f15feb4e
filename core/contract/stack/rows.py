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


def extended(
    history: Tensor, x: Tensor, start: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Put x behind the positions of earlier calls, for a mixer that keeps all of them.

    history [B, S, ...] holds ``start[b]`` positions of row b at its front; x [B, T, ...] has the
    rest of its shape. Returns all of them [B, S' + T, ...], position t of x at start[b] + t, and
    the next ``history``: the real ones, zeros behind them, as long as the longest row.
    """
    length = x.shape[1]
    low, high = (int(edge) for edge in start.aminmax())
    joined = torch.cat([history[:, :high], x.to(history.dtype)], 1)  # [B, S' + T, ...]
    slots = torch.arange(high + length, device=x.device)  # [S' + T]
    if low < high:
        behind = slots - start[:, None]  # [B, S' + T]
        index = torch.where(behind < 0, slots, high + behind.clamp(0, length - 1))  # [B, S' + T]
        rows = torch.arange(len(x), device=x.device)[:, None]  # [B, 1]
        joined = joined[rows, index]  # [B, S' + T, ...]
    if lengths is None and low == high:
        return joined, joined
    ends = start + (length if lengths is None else lengths)  # [B]
    longest = int(ends.max())
    real = (slots[:longest] < ends[:, None]).view(len(x), longest, *[1] * (x.ndim - 2))
    return joined, torch.where(real, joined[:, :longest], 0)  # [B, S'', ...]
