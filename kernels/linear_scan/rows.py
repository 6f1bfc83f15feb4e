"""Scans in two levels: all rows of a folded sequence side by side, then from row to row.

T positions become R rows of L, both near the square root of T. A row runs as if nothing came before
it, in L steps of all rows at once; R steps carry the last state of each row into the next; one
operation adds to every position what its row was handed. Nothing is divided, and no logarithm is
taken of a factor, so that any factor in [0, 1] is exact, 0 included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def fold(x: Tensor) -> Tensor:
    """x [B, T, C] -> a copy [L, B, R, C], zeros behind the end; slices [i] are contiguous."""
    batch, length, channels = x.shape
    per_row = math.isqrt(length - 1) + 1
    rows = -(-length // per_row)
    if rows * per_row > length:
        x = F.pad(x, (0, 0, 0, rows * per_row - length))  # [B, R L, C]
    x = x.reshape(batch, rows, per_row, channels).permute(2, 0, 1, 3)  # [L, B, R, C]
    return x.clone(memory_format=torch.contiguous_format)  # [L, B, R, C]


def unfold(x: Tensor, length: int) -> Tensor:
    """x [L, B, R, C] -> [B, T, C], the inverse of ``fold``."""
    per_row, batch, rows, channels = x.shape
    joined = x.permute(1, 2, 0, 3).reshape(batch, rows * per_row, channels)  # [B, R L, C]
    return joined[:, :length]  # [B, T, C]


def scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """a and b [B, T, C], start [B, C] -> h [B, T, C] with h_t = a_t h_{t-1} + b_t."""
    length = a.shape[1]
    if length == 1:
        return torch.addcmul(b, a, start[:, None])  # [B, 1, C]
    a, h = fold(a), fold(b)  # [L, B, R, C]
    reach = a  # [L, B, R, C]: of what a row was handed, this share is still there
    for i in range(1, len(h)):
        h[i].addcmul_(a[i], h[i - 1])  # [B, R, C]
        reach[i].mul_(reach[i - 1])  # [B, R, C]
    handed = torch.empty_like(h[0])  # [B, R, C]
    carry = start  # [B, C]
    for row in range(h.shape[2]):
        handed[:, row] = carry
        carry = torch.addcmul(h[-1, :, row], reach[-1, :, row], carry)  # [B, C]
    return unfold(h.addcmul_(reach, handed), length)  # [B, T, C]


def scan_back(a: Tensor, dh: Tensor) -> Tensor:
    """a and dh [B, T, C] -> the gradient of b [B, T, C]: e_t = dh_t + a_{t+1} e_{t+1}."""
    follows = F.pad(a[:, 1:], (0, 0, 0, 1)).flip(1)  # [B, T, C]
    return scan(follows, dh.flip(1), torch.zeros_like(a[:, 0])).flip(1)  # [B, T, C]


def log_scan(w: Tensor, k: Tensor, start: Tensor) -> Tensor:
    """w and k [B, T, C], start [B, C] -> l_t = log(exp(l_{t-1} + w_t) + exp(k_t)) [B, T, C]."""
    length = k.shape[1]
    if length == 1:
        return torch.logaddexp(start[:, None] + w, k)  # [B, 1, C]
    w, h = fold(w), fold(k)  # [L, B, R, C]
    reach = w  # [L, B, R, C]
    for i in range(1, len(h)):
        torch.logaddexp(h[i - 1] + w[i], h[i], out=h[i])  # [B, R, C]
        reach[i].add_(reach[i - 1])  # [B, R, C]
    handed = torch.empty_like(h[0])  # [B, R, C]
    carry = start  # [B, C]
    for row in range(h.shape[2]):
        handed[:, row] = carry
        carry = torch.logaddexp(h[-1, :, row], reach[-1, :, row] + carry)  # [B, C]
    return unfold(torch.logaddexp(h, reach.add_(handed)), length)  # [B, T, C]
