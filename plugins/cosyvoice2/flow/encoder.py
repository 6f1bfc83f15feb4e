"""Codes to what the flow shall sound like: the upsampling encoder of arXiv:2412.10117, section 3.4.

Ten Transformer blocks with relative positions (arXiv:1901.02860), six at 25 and four at 50
positions per second, after a convolution that sees three codes ahead. Everything else looks back
only, or within its own chunk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2.flow.memory import Memory, continued, heads_of
from wishbone.plugins.cosyvoice2.packed import linear, neighbours

BASE = 10_000.0
"""Longest wave of the positions, in units of 2 pi positions."""


def distances(past: int, now: int, width: int, like: Tensor) -> Tensor:
    """Sinusoids [past + 2 now - 1, width] of how far a key lies behind a query, farthest first.

    With ``past`` positions remembered and ``now`` new ones, that is from past + now - 1 down to
    1 - now, where the key is ahead. Sines stand at even places, cosines at odd ones.
    """
    # in float32 whatever the model is in: bfloat16 cannot count to 300
    behind = torch.arange(past + now - 1, -now, -1, device=like.device, dtype=torch.float32)
    place = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    angle = behind[:, None] * torch.exp(place * (-math.log(BASE) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(like.dtype)


def by_distance(scores: Tensor, keys: int) -> Tensor:
    """Scores by distance [B, H, n, T + n - 1] -> by key [B, H, n, T], T being ``keys``.

    Query i and key j are at column n - 1 - i + j, so every row starts one column further left.
    """
    scores = scores.contiguous()
    batch, heads, now, columns = scores.shape
    steps = (heads * now * columns, now * columns, columns - 1, 1)
    return scores.as_strided((batch, heads, now, keys), steps, scores.storage_offset() + now - 1)


class Attention(nn.Module):
    """Self-attention whose scores also depend on how far apart two positions are."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.position = nn.Linear(width, width, bias=False)
        # u and v of arXiv:1901.02860, section 3.3
        self.content_bias = nn.Parameter(0.1 * torch.randn(heads, width // heads))
        self.position_bias = nn.Parameter(0.1 * torch.randn(heads, width // heads))

    def forward(self, x: Tensor, sees: Tensor | None, memory: Memory | None) -> Tensor:
        """x [B, n, D] -> [B, n, D]; ``sees`` [n, n] without a memory, None for everything."""
        past = 0 if memory is None else memory.past(self)
        all_three = heads_of(linear(x, self.query, self.key, self.value), 3 * self.heads)
        query, both = all_three.tensor_split([self.heads], dim=1)
        place = linear(distances(past, x.shape[1], x.shape[2], x), self.position)
        place = place.unflatten(1, (self.heads, -1)).permute(1, 2, 0)  # [H, D / H, T + n - 1]
        content = query + self.content_bias[:, None]
        position = query + self.position_bias[:, None]
        if memory is not None:
            both = memory.attend(self, both)
        key, value = both.chunk(2, dim=1)
        bias = by_distance(position @ place, key.shape[2]) * (x.shape[2] // self.heads) ** -0.5
        if sees is not None:
            bias = bias.masked_fill(~sees, -torch.inf)
        mixed = F.scaled_dot_product_attention(content, key, value, attn_mask=bias)
        return linear(mixed.transpose(1, 2).flatten(2), self.out)


class Block(nn.Module):
    """Attention, then two linear layers; each reads a normalised copy and adds to the sum."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        # the release was trained with this epsilon here and with the usual one elsewhere
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.attention = Attention(width, heads)
        self.linear_norm = nn.LayerNorm(width, eps=1e-12)
        self.rise = nn.Linear(width, inner)
        self.fall = nn.Linear(inner, width)

    def forward(self, x: Tensor, sees: Tensor | None, memory: Memory | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), sees, memory)
        risen = linear(self.linear_norm(x), self.rise, activation="silu")
        return linear(risen, self.fall, add=x)


class Entry(nn.Module):
    """Linear layer, norm, and the scale that Transformers give to embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(linear(x, self.linear)) * x.shape[-1] ** 0.5


class LookAhead(nn.Module):
    """Adds to every position what it and the next ``reach`` ones say, then looks back by two."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.ahead = nn.Conv1d(width, width, reach + 1)
        self.behind = nn.Conv1d(width, width, 3)

    def forward(self, x: Tensor, following: Tensor, memory: Memory | None) -> Tensor:
        """x [B, n, D] and at most ``reach`` positions after it [B, m, D] -> [B, n, D].

        Where fewer follow, the utterance ends.
        """
        short = self.reach - following.shape[1]
        h = F.pad(torch.cat([x, following], dim=1), (0, 0, 0, short))
        h = F.leaky_relu(linear(neighbours(h, self.reach + 1), self.ahead))
        return linear(neighbours(continued(self.behind, h, 2, memory), 3), self.behind, add=x)


class Encoder(nn.Module):
    """Embedded codes [B, n, D] at 25 Hz -> [B, 2 n, D] at 50 Hz."""

    RISE = 2
    """Mel frames per code."""

    def __init__(
        self, width: int, heads: int, inner: int, blocks: int, fine_blocks: int, lookahead: int
    ) -> None:
        super().__init__()
        self.entry, self.fine_entry = Entry(width), Entry(width)
        self.look_ahead = LookAhead(width, lookahead)
        self.blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(blocks))
        self.rise = nn.Conv1d(width, width, 2 * self.RISE + 1)
        self.fine_blocks = nn.ModuleList(Block(width, heads, inner) for _ in range(fine_blocks))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        following: Tensor,
        sees: tuple[Tensor | None, Tensor | None] = (None, None),
        memories: tuple[Memory | None, Memory | None] = (None, None),
    ) -> Tensor:
        """``following`` [B, m, D] are the codes after x, as in ``LookAhead``.

        Masks and memories come in pairs, for 25 and 50 Hz: a whole utterance with masks, or one
        chunk after the other with memories.
        """
        h = self.look_ahead(self.entry(x), self.entry(following), memories[0])
        for block in self.blocks:
            h = block(h, sees[0], memories[0])
        h = h.repeat_interleave(self.RISE, dim=1)
        h = continued(self.rise, h, 2 * self.RISE, memories[1])
        h = self.fine_entry(linear(neighbours(h, 2 * self.RISE + 1), self.rise))
        for block in self.fine_blocks:
            h = block(h, sees[1], memories[1])
        return self.norm(h)
