"""Sliding-window attention (arXiv 2004.05150; Mistral, arXiv 2310.06825): the last W positions.

A position attends to itself and the W - 1 before it, with rotary positions. The cache holds keys
and values of W - 1 positions, the latest at its end, so it has one size from the beginning on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import OptionalSize, Positive, Range, Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs
from wishbone.plugins.initial_weights import start_small
from wishbone.plugins.transformer.layers import rotary, rotate

ROWS = 64
"""Queries in one product, at least."""


@dataclass
class WindowConfig:
    """Heads, and how far they see."""

    window: Annotated[int, Range(2, 2**20)] = 128
    """Positions W that one attends to, itself among them."""
    heads: Size = 4
    """Query heads; each has width / heads numbers."""
    kv_heads: OptionalSize = 0
    """Heads of keys and values; each serves heads / kv_heads query heads. 0 means ``heads``."""
    rotary: bool = True
    """True turns queries and keys by their positions."""
    rope_theta: Positive = 10000.0
    """Base of the rotary frequencies."""


class Window(Mixer):
    """Attention whose state is constant. State: keys and values [B, W - 1, G K], zeros in front."""

    Config = WindowConfig
    positions = True
    targets = ("qkv", "output")

    def __init__(self, config: WindowConfig, place: Place) -> None:
        super().__init__(config, place)
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        self.size, odd = divmod(place.width, self.heads)
        """K."""
        if odd or self.size % 2 or self.heads % self.kv_heads:
            raise ConfigError(
                f"A width of {place.width} does not divide into {self.heads} heads of an even size,"
                f" or these not into {self.kv_heads} groups.",
                "the mixer 'window' of the stack",
                "Make width a multiple of 2 * heads, and heads one of kv_heads.",
            )
        rows = (self.heads + 2 * self.kv_heads) * self.size
        self.qkv = nn.Linear(place.width, rows, bias=False)
        self.output = nn.Linear(place.width, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> WindowConfig:
        """A window that is full after a few positions."""
        return WindowConfig(window=5, heads=4, kv_heads=2)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros, which nobody attends to."""
        shape = batch, self.config.window - 1, self.kv_heads * self.size
        return {n: torch.zeros(shape, device=device, dtype=dtype) for n in ("key", "value")}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the last keys and values."""
        assert call.start is not None
        positions = call.start[:, None] + torch.arange(x.shape[1], device=x.device)  # [B, T]
        qkv = self.qkv(x).unflatten(-1, (-1, self.size))  # [B, T, H + 2 G, K]
        qk, values = qkv.split((self.heads + self.kv_heads, self.kv_heads), 2)  # [B, T, ., K]
        if self.config.rotary:
            qk = rotate(qk, *rotary(positions, self.size, self.config.rope_theta, x.dtype))
        queries, keys = qk.split((self.heads, self.kv_heads), 2)  # [B, T, H, K], [B, T, G, K]
        keys, key = last_inputs(state["key"], keys.flatten(2), call.lengths)  # [B, W - 1 + T, G K]
        values, value = last_inputs(state["value"], values.flatten(2), call.lengths)
        heads = (self.kv_heads, self.size)
        keys, values = (t.unflatten(-1, heads).transpose(1, 2) for t in (keys, values))
        y = banded(queries.transpose(1, 2), keys, values, call.start)  # [B, H, T, K]
        return self.output(y.transpose(1, 2).flatten(2)), {"key": key, "value": value}

    def operations(self, context: int = 0) -> int:
        """Count four per channel of every position attended to."""
        return 4 * self.place.width * min(context + 1, self.config.window)

    def reset_parameters(self) -> None:
        """Draw small normal weights."""
        start_small(self.place, self.qkv, output=self.output)


def banded(queries: Tensor, keys: Tensor, values: Tensor, start: Tensor) -> Tensor:
    """queries [B, H, T, K], keys and values [B, G, W - 1 + T, K], start [B] -> [B, H, T, K].

    Query t sees slots t ... t + W - 1, the last one its own; slots before the first position hold
    nothing. Queries go in pieces, so that scores are made for two windows at most.
    """
    length, reach = queries.shape[2], keys.shape[2] - queries.shape[2]  # T, W - 1
    grouped = queries.shape[1] != keys.shape[1]
    rows = max(ROWS, reach + 1)
    outputs = []
    for first in range(0, length, rows):
        last = min(first + rows, length)
        slot = torch.arange(first, last + reach, device=keys.device)  # [S]
        lag = torch.arange(first, last, device=keys.device)[:, None] + reach - slot  # [R, S]
        visible = (lag >= 0) & (lag <= reach)  # [R, S]
        if first < reach:
            held = slot >= reach - start[:, None]  # [B, S]
            visible = visible & held[:, None, None]  # [B, 1, R, S]
        part = slice(first, last + reach)
        outputs.append(
            F.scaled_dot_product_attention(
                queries[:, :, first:last], keys[:, :, part], values[:, :, part], visible,
                enable_gqa=grouped,
            )  # [B, H, R, K]
        )  # fmt: skip
    return torch.cat(outputs, 2)
