"""Both scans, one position after another: the form to read and to test against."""

from __future__ import annotations

import torch
from torch import Tensor

from wishbone.kernels.precision import compute_dtype

NEVER = -1e30
"""Logarithm of a weight that is zero, finite so that sums and gradients stay numbers."""


def linear_scan_reference(a: Tensor, b: Tensor, start: Tensor | None = None) -> Tensor:
    """Run h_t = a_t h_{t-1} + b_t, each number by itself.

    a and b [B, T, ...] of one shape, start [B, ...] the h before the first position, zeros when
    absent. Computes in float64 if any input is, else in float32. Returns h [B, T, ...].
    """
    kind = compute_dtype(a, b, start)
    a, b = a.to(kind), b.to(kind)  # [B, T, ...]
    h = torch.zeros_like(b[:, 0]) if start is None else start.to(kind)  # [B, ...]
    states = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]  # [B, ...]
        states.append(h)
    return torch.stack(states, 1)  # [B, T, ...]


def weighted_mean_reference(
    k: Tensor, v: Tensor, w: Tensor | None = None, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Run the mean of all v so far, position s weighing exp(k_s) and fading by exp(w) a position::

        l_t = log(exp(l_{t-1} + w_t) + exp(k_t))              logarithm of the sum of all weights
        m_t = (exp(l_{t-1} + w_t) m_{t-1} + exp(k_t) v_t) / exp(l_t)

    k and v [B, T, ...] of one shape, w likewise or without its first axes, none when nothing fades.
    ``start`` is mean and logarithm before the first position, each [B, ...]. Computes in float64
    if any input is, else in float32. Returns m and l, each [B, T, ...].
    """
    kind = compute_dtype(k, v, w, *(start or ()))
    k, v = k.to(kind), v.to(kind)  # [B, T, ...]
    w = torch.zeros_like(k) if w is None else w.to(kind).expand_as(k)  # [B, T, ...]
    mean, weight = empty_mean(k[:, 0]) if start is None else start  # [B, ...]
    means, weights = [], []
    for t in range(k.shape[1]):
        faded = weight + w[:, t]  # [B, ...]
        weight = torch.logaddexp(faded, k[:, t])  # [B, ...]
        mean = (faded - weight).exp() * mean + (k[:, t] - weight).exp() * v[:, t]  # [B, ...]
        means.append(mean)
        weights.append(weight)
    return torch.stack(means, 1), torch.stack(weights, 1)  # [B, T, ...]


def empty_mean(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and logarithm of the weights of nothing, in shape and type of ``like``."""
    return torch.zeros_like(like), torch.full_like(like, NEVER)
