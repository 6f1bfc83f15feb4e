"""Memories that are vectors: a linear recurrence of each number by itself, and weighted means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wishbone.kernels.linear_scan.reference import (
    NEVER,
    empty_mean,
    linear_scan_reference,
    weighted_mean_reference,
)
from wishbone.kernels.linear_scan.rows import log_scan, scan, scan_back
from wishbone.kernels.precision import compute_dtype
from wishbone.kernels.wkv7 import triton_missing

__all__ = [
    "available",
    "NEVER",
    "empty_mean",
    "last_state",
    "linear_scan",
    "linear_scan_reference",
    "weighted_mean",
    "weighted_mean_reference",
]


def linear_scan(a: Tensor, b: Tensor, start: Tensor | None = None) -> Tensor:
    """Compute h_t = a_t h_{t-1} + b_t in 2 sqrt(T) steps, as ``linear_scan_reference`` does.

    a and b [B, T, ...] of one shape, a in [0, 1]; start [B, ...], zeros when absent. Returns
    h [B, T, ...] in float64 if an input is, else in float32.
    """
    kind = compute_dtype(a, b, start)
    shape = b.shape
    a, b = a.to(kind).flatten(2), b.to(kind).flatten(2)  # [B, T, C]
    if start is None:
        start = torch.zeros_like(b[:, 0])  # [B, C]
    return _Scan.apply(a, b, start.to(kind).flatten(1)).view(shape)  # [B, T, ...]


def weighted_mean(
    k: Tensor, v: Tensor, w: Tensor | None = None, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the running mean of v with weights exp(k) that fade by exp(w), and log of their sum.

    The equations, and the arguments, are those of ``weighted_mean_reference``. Two numbers are
    kept, mean and logarithm, instead of a numerator and a denominator with a common maximum: they
    cannot overflow, and their gradients are smooth. Returns m and l, each [B, T, ...].
    """
    kind = compute_dtype(k, v, w, *(start or ()))
    shape = k.shape
    w = torch.zeros_like(k) if w is None else w.expand(shape)  # [B, T, ...]
    k, v, w = (x.to(kind).flatten(2) for x in (k, v, w))  # [B, T, C]
    mean, weight = empty_mean(k[:, 0]) if start is None else start  # [B, C] or [B, ...]
    mean, weight = mean.to(kind).flatten(1), weight.to(kind).flatten(1)  # [B, C]
    weights = _LogScan.apply(w, k, weight)  # [B, T, C]
    before = torch.cat([weight[:, None], weights[:, :-1]], 1)  # [B, T, C]
    # Both shares come from one number, so that they add up to 1 however long the sequence is.
    lead = before + w - k  # [B, T, C]
    means = _Scan.apply(lead.sigmoid(), (-lead).sigmoid() * v, mean)  # [B, T, C]
    return means.view(shape), weights.view(shape)  # [B, T, ...]


def last_state(h: Tensor, start: Tensor, lengths: Tensor | None) -> Tensor:
    """h [B, T, ...], start [B, ...], lengths [B] -> h after the last real position of each row.

    Row b has ``lengths[b]`` real positions at its front, all T if there are no lengths; the state
    of a row with none is ``start``. Returns a copy [B, ...].
    """
    if lengths is None:
        return h[:, -1].clone()  # [B, ...]
    rows = torch.arange(len(h), device=h.device)  # [B]
    last = h[rows, (lengths - 1).clamp_min(0)]  # [B, ...]
    some = (lengths > 0).view(-1, *[1] * (h.ndim - 2))  # [B, 1, ...]
    return torch.where(some, last, start.to(h.dtype))  # [B, ...]


def _form(name: str, x: Tensor) -> Callable[..., Tensor]:
    """Return the scan of this name that is for the device and the type of x [B, T, C]."""
    if x.is_cuda and x.shape[1] > 1 and x.dtype == torch.float32 and not triton_missing():
        from wishbone.kernels.linear_scan import triton

        return {"scan": triton.scan, "scan_back": triton.scan_back, "log_scan": triton.log_scan}[
            name
        ]
    return {"scan": scan, "scan_back": scan_back, "log_scan": log_scan}[name]


class _Scan(torch.autograd.Function):
    """``scan`` with its backward pass, which is a scan from the end."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        h = _form("scan", b)(a, b, start)  # [B, T, C]
        ctx.save_for_backward(a, h, start)
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, start = ctx.saved_tensors  # [B, T, C], start [B, C]
        db = _form("scan_back", a)(a, dh)  # [B, T, C]
        before = torch.cat([start[:, None], h[:, :-1]], 1)  # [B, T, C]
        return db * before, db, a[:, 0] * db[:, 0]


class _LogScan(torch.autograd.Function):
    """``log_scan`` with its backward pass: that of ``scan`` for a_t, the share of what was before.

    l_t changes with l_{t-1} and w_t by a_t = sigmoid(l_{t-1} + w_t - k_t), with k_t by 1 - a_t.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, k: Tensor, start: Tensor) -> Tensor:
        weights = _form("log_scan", k)(w, k, start)  # [B, T, C]
        ctx.save_for_backward(w, k, weights, start)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dl: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w, k, weights, start = ctx.saved_tensors  # [B, T, C], start [B, C]
        before = torch.cat([start[:, None], weights[:, :-1]], 1)  # [B, T, C]
        a = (before + w - k).sigmoid()  # [B, T, C]
        total = _form("scan_back", a)(a, dl)  # [B, T, C]
        dw = a * total  # [B, T, C]
        return dw, total - dw, dw[:, 0]


def available() -> dict[str, str]:
    """Return form -> why it cannot run on this machine; PyTorch's operations run everywhere."""
    return {"reference": "", "torch": "", "triton": triton_missing()}
