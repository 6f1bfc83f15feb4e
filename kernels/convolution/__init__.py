"""Short causal convolutions, each channel by itself, that continue where an earlier call ended."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["available", "causal_convolution", "causal_convolution_reference"]


def causal_convolution(joined: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """joined [B, W - 1 + T, C], weight [C, W], bias [C] -> y [B, T, C].

    y_t = bias + sum over i of weight[:, i] * x_{t - W + 1 + i}: the last tap meets the position
    itself, as in a ``torch.nn.Conv1d`` with padding W - 1 on the left. ``joined`` is x with the
    W - 1 inputs before it in front, zeros at the beginning; ``last_inputs`` of
    ``wishbone.core.contract.stack.rows`` puts them there.
    """
    return _Taps.apply(joined, weight, bias)


def causal_convolution_reference(
    joined: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Compute ``causal_convolution`` position by position: the form to read and to test against."""
    width = weight.shape[1]
    outputs = []
    for t in range(joined.shape[1] - width + 1):
        y = (joined[:, t : t + width] * weight.T).sum(1)  # [B, C]
        outputs.append(y if bias is None else y + bias)
    return torch.stack(outputs, 1)  # [B, T, C]


class _Taps(torch.autograd.Function):
    """One multiplication and addition of the whole sequence a tap; no tensor is padded."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(joined, weight)
        ctx.biased = bias is not None
        width = weight.shape[1]
        length = joined.shape[1] - width + 1
        y = joined[:, :length] * weight[:, 0]  # [B, T, C]
        for i in range(1, width):
            y.addcmul_(joined[:, i : i + length], weight[:, i])  # [B, T, C]
        return y if bias is None else y.add_(bias)  # [B, T, C]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        joined, weight = ctx.saved_tensors  # [B, W - 1 + T, C], [C, W]
        width, length = weight.shape[1], dy.shape[1]
        d_joined = torch.zeros_like(joined)  # [B, W - 1 + T, C]
        d_taps = []
        for i in range(width):
            part = slice(i, i + length)
            d_joined[:, part].addcmul_(dy, weight[:, i])  # [B, T, C]
            d_taps.append((dy * joined[:, part]).sum((0, 1)))  # [C]
        d_bias = dy.sum((0, 1)) if ctx.biased else None  # [C]
        return d_joined, torch.stack(d_taps, 1), d_bias


def available() -> dict[str, str]:
    """Return form -> why it cannot run on this machine; PyTorch's operations run everywhere."""
    return {"reference": "", "torch": ""}
