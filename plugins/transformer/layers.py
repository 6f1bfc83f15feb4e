"""The equations of one Transformer block: grouped-query attention and SwiGLU, pre-norm.

    x = x + W_o attention(rotate(q), rotate(k), v)     q, k, v = W_qkv norm(x)
    x = x + W_down (silu(gate) * up)                   gate, up = W_gate_up norm(x)

Shapes: B sequences, T new positions, S positions in the cache, D width, H query heads of K numbers,
G heads of keys and values, F inner width. Checked against ``transformers``' Qwen2 by
``tests/plugins/test_transformer_parity.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.engines import Engine
from wishbone.plugins.transformer.attention import causal_attention
from wishbone.plugins.transformer.cache import Past, append_


@dataclass
class TransformerConfig:
    """Shape of the stack. The defaults are a small speech model of about 5 M parameters."""

    width: int = 256
    """D, numbers per position."""
    layers: int = 6
    """Number of blocks."""
    heads: int = 4
    """Query heads; each has width / heads numbers."""
    kv_heads: int = 2
    """Heads of keys and values; each serves heads / kv_heads query heads. Sets the cache size."""
    ffn_width: int = 768
    """Inner width of the feed-forward part."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies: the longest wave spans about 2 pi rope_theta positions."""
    norm_eps: float = 1e-6
    """Added to the mean square inside every RMSNorm."""
    qkv_bias: bool = True
    """True gives queries, keys and values a bias, as in Qwen2."""
    dropout: float = 0.0
    """Probability of dropping a number of a residual branch in training."""


def rotary(positions: Tensor, size: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """positions [..., T] -> cosines and sines [..., T, K/2] of the angles, for ``size`` K.

    Channel j of K/2 turns by ``theta ** (-2 j / K)`` a position (RoFormer, arXiv:2104.09864,
    equation 15, in the half-split order of Qwen2). Angles are float32 at least.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    channels = torch.arange(0, size, 2, device=positions.device, dtype=exact)  # [K/2]
    angles = positions.to(exact)[..., None] * theta ** (-channels / size)  # [..., T, K/2]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn x [B, T, H, K] by the angles of its positions; channel j pairs with j + K/2."""
    cosines, sines = cosines.to(x.dtype)[..., None, :], sines.to(x.dtype)[..., None, :]
    low, high = x.chunk(2, dim=-1)  # [B, T, H, K/2] each
    return torch.cat((low * cosines - high * sines, high * cosines + low * sines), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention (arXiv:2305.13245) with rotary positions; one fused projection."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.size = config.width // config.heads
        rows = (config.heads + 2 * config.kv_heads) * self.size
        self.qkv = nn.Linear(config.width, rows, bias=config.qkv_bias)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def project(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> queries [B, H, T, K], new keys and values [B, G, T, K]."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, -1, self.size)  # [B, T, H + 2 G, K]
        qk, values = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)  # [B, T, ., K]
        rotated = rotate(qk, *angles).transpose(1, 2)  # [B, H + G, T, K]
        queries, keys = rotated.split((self.heads, self.kv_heads), dim=1)
        return queries, keys, values.transpose(1, 2)

    def forward(
        self, x: Tensor, past: Past, key: Tensor | None, value: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] and the cache of this block -> y [B, T, D] and the longer cache."""
        queries, new_key, new_value = self.project(x, past.angles)
        key, value = past.join(key, new_key), past.join(value, new_value)  # [B, G, S, K] each
        y = self.attend(queries, key.to(queries.dtype), value.to(queries.dtype), past)
        return y, key, value

    def attend(self, queries: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
        """queries [B, H, T, K] over key, value [B, G, S, K] -> y [B, T, D]."""
        return self.output(attend(queries, key, value, past))


def attend(queries: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
    """queries [B, H, T, K] over key, value [B, G, S, K] -> the heads side by side [B, T, D]."""
    batch, heads, length, size = queries.shape
    kv_heads = key.shape[1]
    share = heads // kv_heads
    if length == 1 and past.bias is None:
        # One position that sees everything: the query heads of a group stand in for positions.
        queries = queries.reshape(batch, kv_heads, share, size)  # [B, G, H/G, K]
        y = F.scaled_dot_product_attention(queries, key, value)  # [B, G, H/G, K]
    elif past.causal:
        y = causal_attention(queries, key, value)  # [B, H, T, K]
    else:
        y = F.scaled_dot_product_attention(
            queries, key, value, attn_mask=past.bias, enable_gqa=share > 1
        )  # [B, H, T, K]
    return y.reshape(batch, -1, length, size).transpose(1, 2).flatten(2)  # [B, T, D]


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202, equation 6): one fused projection to gate and content."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> y [..., D]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # [..., F] each
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm_ffn = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, past: Past, key: Tensor | None, value: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] and the cache of this block -> y [B, T, D] and the longer cache."""
        y, key, value = self.attention(self.norm_attention(x), past, key, value)
        x = x + self.dropout(y)  # [B, T, D]
        return x + self.dropout(self.ffn(self.norm_ffn(x))), key, value

    def step_(
        self, x: Tensor, past: Past, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, 1, D] -> y and the cache with one position appended in place where it can be."""
        attention = self.attention
        queries, new_key, new_value = attention.project(self.norm_attention(x), past.angles)
        key, value = append_(key, new_key, past), append_(value, new_value, past)  # [B, G, S, K]
        cache = key.to(queries.dtype), value.to(queries.dtype)
        x = x + self.dropout(attention.attend(queries, *cache, past))  # [B, 1, D]
        return x + self.dropout(self.ffn(self.norm_ffn(x))), key, value


class Stack(Protocol):
    """The parts of the backbone that an engine reads."""

    config: TransformerConfig
    width: int
    blocks: nn.ModuleList
    """``Block`` each."""
    norm_out: nn.RMSNorm
    _engine: Engine | None
