"""Attention from every position to the text so far, in the one sequence of text and speech.

    y_t = W_o concat_h (softmax over text s <= t of (0, q_t . k_s / sqrt(K))) (0, v_s)

Text positions go through the stack like all others, so there is no encoder: what they are at this
depth is what is remembered. The 0 is an empty place beside them, for when there is nothing to read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs, real_positions
from wishbone.plugins.initial_weights import start_small


@dataclass
class CrossAttentionConfig:
    """Heads and memory."""

    heads: Size = 4
    """Query heads; each has width / heads numbers."""
    places: Size = 256
    """Text positions M that are remembered, the latest ones."""


class CrossAttention(Mixer):
    """State: keys and values [B, M, D] of the latest text, at the end; and their number [B]."""

    Config = CrossAttentionConfig
    ids = True
    targets = ("query", "memory_in", "output")

    def __init__(self, config: CrossAttentionConfig, place: Place) -> None:
        super().__init__(config, place)
        if place.width % config.heads:
            raise ConfigError(
                f"A width of {place.width} does not divide into {config.heads} heads.",
                "the mixer 'cross_attention' of the stack",
                "Change its heads, or the width.",
            )
        self.query = nn.Linear(place.width, place.width, bias=False)
        self.memory_in = nn.Linear(place.width, 2 * place.width, bias=False)
        self.output = nn.Linear(place.width, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> CrossAttentionConfig:
        """A memory that is full after a few positions."""
        return CrossAttentionConfig(places=5)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """No text yet."""
        shape = batch, self.config.places, 2 * self.place.width
        return {
            "text": torch.zeros(shape, device=device, dtype=dtype),
            "text_seen": torch.zeros(batch, dtype=torch.int64, device=device),
        }

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the text remembered."""
        assert call.table is not None
        text, real = call.table != 0, real_positions(call.lengths, x)  # [B, T] each
        text = text if real is None else text & real  # [B, T]
        before, places = state["text_seen"], self.config.places  # [B]
        texts = before[:, None] + text.cumsum(1)  # [B, T]
        pairs = self.memory_in(x)  # [B, T, 2 D]
        front = text.to(torch.int8).argsort(dim=1, descending=True, stable=True)  # [B, T]
        packed = pairs.gather(1, front[..., None].expand_as(pairs))  # [B, T, 2 D]
        _, after = last_inputs(state["text"], packed, text.sum(1))  # [B, M, 2 D]
        old = before[:, None] - places + 1 + torch.arange(places, device=x.device)  # [B, M]
        number = torch.cat([old, torch.where(text, texts, 0)], 1)[:, None]  # [B, 1, M + T]
        visible = (number > 0) & (number <= texts[..., None])  # [B, T, M + T]
        visible &= number > texts[..., None] - places  # [B, T, M + T]
        # A text position has its number before those behind it have theirs: s <= t holds.
        memory = torch.cat([state["text"].to(pairs.dtype), pairs], 1)  # [B, M + T, 2 D]
        y = self._attend(self.query(x), memory, visible)  # [B, T, D]
        return self.output(y), {"text": after, "text_seen": texts[:, -1].clone()}

    def _attend(self, queries: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        """queries [B, T, D], memory [B, S, 2 D], visible [B, T, S] -> [B, T, D]."""
        memory, visible = F.pad(memory, (0, 0, 1, 0)), F.pad(visible, (1, 0), value=True)
        heads = (self.config.heads, -1)
        q, k, v = (
            part.unflatten(-1, heads).transpose(1, 2)  # [B, H, T or S + 1, K]
            for part in (queries, *memory.chunk(2, -1))
        )
        y = F.scaled_dot_product_attention(q, k, v, visible[:, None])  # [B, H, T, K]
        return y.transpose(1, 2).flatten(2)

    def operations(self, context: int = 0) -> int:
        """Count four per channel of every place."""
        return 4 * self.place.width * self.config.places

    def reset_parameters(self) -> None:
        """Draw small normal weights."""
        start_small(self.place, self.query, self.memory_in, output=self.output)
