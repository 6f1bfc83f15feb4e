"""Causal attention of a whole sequence to itself, by the fastest way the device has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 100
"""Queries in one product on the CPU: their scores stay in its cache, and half of the products
with keys that lie ahead are never made. Of 64, 100 and 150, the fastest at 300 positions."""


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """queries [B, H, T, K], keys and values [B, G, T, K] -> [B, H, T, K].

    On the CPU, PyTorch's fused kernel takes 2.5 times as long as these products, forward and
    backward in bfloat16 (24 sequences of 300, 4 heads of 64, one thread of an EPYC 9005).
    """
    share = queries.shape[1] // keys.shape[1]
    if share > 1:
        keys, values = (t.repeat_interleave(share, dim=1) for t in (keys, values))
    if queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return _by_rows(queries, keys, values)


def _by_rows(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    batch, heads, length, size = queries.shape
    queries = (queries * size**-0.5).flatten(0, 1)
    keys, values = keys.flatten(0, 1).transpose(1, 2), values.flatten(0, 1)
    ahead = queries.new_full((min(ROWS, length), length), float("-inf"))
    outputs = []
    for start in range(0, length, ROWS):
        end = min(start + ROWS, length)
        bias = ahead[: end - start, :end].triu(start + 1)
        scores = torch.baddbmm(bias, queries[:, start:end], keys[:, :, :end])
        outputs.append(scores.softmax(-1) @ values[:, :end])
    return torch.cat(outputs, dim=1).unflatten(0, (batch, heads))
