"""Grouped-query attention as a token mixer: its cache grows with every position.

    y = W_o attention(rotate(q), rotate(k), v)     q, k, v = W_qkv x

Shapes: B sequences, T new positions, S positions in the cache, D width, H query heads of K numbers,
G heads of keys and values. Checked against ``transformers``' Qwen2 by
``tests/plugins/test_transformer_parity.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import OptionalSize, Positive, Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.plugins.engines import Engine
from wishbone.plugins.ffn.swiglu import SwiGLU
from wishbone.plugins.transformer.attention import causal_attention
from wishbone.plugins.transformer.cache import Past, append_, plan_past, plan_step


@dataclass
class AttentionConfig:
    """Heads and positions."""

    heads: Size = 4
    """Query heads; each has width / heads numbers."""
    kv_heads: OptionalSize = 0
    """Heads of keys and values; each serves heads / kv_heads query heads. 0 means ``heads``."""
    rotary: bool = True
    """True turns queries and keys by their positions; without, order is left to other blocks."""
    rope_theta: Positive = 10000.0
    """Base of the rotary frequencies: the longest wave spans about 2 pi rope_theta positions."""
    qkv_bias: bool = True
    """True gives queries, keys and values a bias, as in Qwen2."""


class Attention(Mixer):
    """Grouped-query attention (arXiv:2305.13245) with rotary positions; one fused projection.

    State: ``key`` and ``value`` [B, G, S, K]. Row b holds its real positions in its first slots
    with nothing between them and zeros behind.
    """

    Config = AttentionConfig
    positions = True
    constant = False
    targets = ("qkv", "output")

    def __init__(self, config: AttentionConfig, place: Place) -> None:
        super().__init__(config, place)
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        check_heads(place.width, self.heads, self.kv_heads)
        self.size = place.width // self.heads
        rows = (self.heads + 2 * self.kv_heads) * self.size
        self.qkv = nn.Linear(place.width, rows, bias=config.qkv_bias)
        self.output = nn.Linear(place.width, place.width, bias=False)
        if place.start:
            self.reset_parameters()

    @classmethod
    def small_config(cls) -> AttentionConfig:
        """Two query heads share one head of keys."""
        return AttentionConfig(heads=4, kv_heads=2)

    def reset_parameters(self) -> None:
        """Draw normal weights of standard deviation sqrt(2 / 5D) (arXiv:1910.05895, section 2.2).

        What is added to the residual stream is smaller by sqrt(2 layers), as in GPT-2.
        """
        spread = math.sqrt(2 / (5 * self.place.width))
        nn.init.normal_(self.qkv.weight, std=spread)
        if self.qkv.bias is not None:
            nn.init.zeros_(self.qkv.bias)
        nn.init.normal_(self.output.weight, std=spread / math.sqrt(2 * self.place.layers))

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Return an empty cache."""
        shape = batch, self.kv_heads, 0, self.size
        return {
            name: torch.zeros(shape, device=device, dtype=dtype)  # [B, G, 0, K]
            for name in ("key", "value")
        }

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] and the cache -> y [B, T, D] and the longer cache."""
        past = self._past(x, call, whole=True)
        queries, new_key, new_value = self.project(x, past.angles)
        old = (None, None) if call.first else (state["key"], state["value"])
        key, value = past.join(old[0], new_key), past.join(old[1], new_value)  # [B, G, S, K] each
        y = attend(queries, key.to(queries.dtype), value.to(queries.dtype), past)  # [B, T, D]
        return self.output(y), {"key": past.trim(key), "value": past.trim(value)}

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D]; the cache grows in memory kept spare for it."""
        x = x[:, None]  # [B, 1, D]
        past = self._past(x, call, whole=False)
        queries, new_key, new_value = self.project(x, past.angles)
        key = append_(state["key"], new_key, past)  # [B, G, S, K]
        value = append_(state["value"], new_value, past)  # [B, G, S, K]
        y = attend(queries, key.to(queries.dtype), value.to(queries.dtype), past)  # [B, 1, D]
        return self.output(y)[:, 0], {"key": key, "value": value}

    def project(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> queries [B, H, T, K], new keys and values [B, G, T, K]."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, -1, self.size)  # [B, T, H + 2 G, K]
        qk, values = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=2)  # [B, T, ., K]
        if angles is not None:
            qk = rotate(qk, *angles)  # [B, T, H + G, K]
        queries, keys = qk.transpose(1, 2).split((self.heads, self.kv_heads), dim=1)
        return queries, keys, values.transpose(1, 2)

    def growth(self) -> Mapping[str, int]:
        """A key and a value for every head of them."""
        return dict.fromkeys(("key", "value"), self.kv_heads * self.size)

    def operations(self, context: int = 0) -> int:
        """Count four per channel of every position attended to."""
        return 4 * self.place.width * (context + 1)

    def _past(self, x: Tensor, call: Call, *, whole: bool) -> Past:
        """Plan the call once for all attention of the same angles."""
        theta = self.config.rope_theta if self.config.rotary else 0.0
        name = f"attention {self.size} {theta!r}"
        if name not in call.shared:

            def angles(positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
                return rotary(positions, self.size, theta, dtype) if theta else None

            before = None if call.first else call.start  # [B]
            call.shared[name] = (
                plan_past(x, before, call.lengths, angles)
                if whole
                else plan_step(x, call.start, angles)
            )
        return call.shared[name]


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


def check_heads(width: int, heads: int, kv_heads: int) -> None:
    """Raise ``ConfigError`` unless heads of an even size fill the width, and groups the heads."""
    divides = heads > 0 and kv_heads > 0 and width % heads == 0 and heads % kv_heads == 0
    if not divides or (width // heads) % 2:
        raise ConfigError(
            f"a width of {width} does not divide into {heads} heads of an even size, "
            f"or these not into {kv_heads} groups",
            where="the width of the stack, heads and kv_heads of its attention",
            do="make width a multiple of 2 * heads, and heads a multiple of kv_heads.",
        )


class Block(Protocol):
    """The parts of a block that an engine reads."""

    norm_attention: nn.RMSNorm
    attention: Attention
    norm_ffn: nn.RMSNorm
    ffn: SwiGLU


class Stack(Protocol):
    """The parts of the backbone that an engine reads."""

    config: Any
    width: int
    blocks: nn.ModuleList
    """``Block`` each."""
    norm_out: nn.RMSNorm
    _engine: Engine | None
