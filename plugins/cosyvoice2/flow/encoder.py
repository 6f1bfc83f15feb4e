"""Encode codes as the mel that the flow refines: the upsampling encoder of CosyVoice2.

arXiv:2412.10117, section 3.4; ``UpsampleConformerEncoder`` in
cosyvoice/transformer/upsample_encoder.py of the public code.

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
    """Sinusoids [past + 2 now - 1, width] of a key's distance behind a query, farthest first.

    With ``past`` positions remembered and ``now`` new ones, that is from past + now - 1 down to
    1 - now, where the key is ahead. Sines stand at even places, cosines at odd ones.
    """
    # in float32 whatever the model is in: bfloat16 cannot count to 300
    behind = torch.arange(past + now - 1, -now, -1, device=like.device, dtype=torch.float32)  # [N]
    place = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)  # [W / 2]
    angle = behind[:, None] * torch.exp(place * (-math.log(BASE) / width))  # [N, W / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(like.dtype)  # [N, W]


def by_distance(scores: Tensor, keys: int) -> Tensor:
    """Shift scores by distance [B, H, n, T + n - 1] -> by key [B, H, n, T], T being ``keys``.

    Query i and key j are at column n - 1 - i + j, so every row starts one column further left.
    """
    scores = scores.contiguous()  # [B, H, n, T + n - 1]
    batch, heads, now, columns = scores.shape
    steps = (heads * now * columns, now * columns, columns - 1, 1)
    first = scores.storage_offset() + now - 1
    return scores.as_strided((batch, heads, now, keys), steps, first)  # [B, H, n, T]


class Attention(nn.Module):
    """Self-attention with relative positions (arXiv:1901.02860, section 3.3).

    ``RelPositionMultiHeadedAttention`` in cosyvoice/transformer/attention.py. H heads, d = D / H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.position = nn.Linear(width, width, bias=False)
        # u and v of arXiv:1901.02860, section 3.3
        self.content_bias = nn.Parameter(0.1 * torch.randn(heads, width // heads))  # [H, d]
        self.position_bias = nn.Parameter(0.1 * torch.randn(heads, width // heads))  # [H, d]

    def forward(self, x: Tensor, sees: Tensor | None, memory: Memory | None) -> Tensor:
        """x [B, n, D] -> [B, n, D]; ``sees`` [n, n] without a memory, None for everything."""
        past = 0 if memory is None else memory.past(self)
        qkv = linear(x, self.query, self.key, self.value)  # [B, n, 3 D]
        query, both = heads_of(qkv, 3 * self.heads).tensor_split(
            [self.heads], dim=1
        )  # [B, H, n, d]
        place = linear(distances(past, x.shape[1], x.shape[2], x), self.position)  # [T + n - 1, D]
        place = place.unflatten(1, (self.heads, -1)).permute(1, 2, 0)  # [H, d, T + n - 1]
        content = query + self.content_bias[:, None]  # [B, H, n, d]
        position = query + self.position_bias[:, None]  # [B, H, n, d]
        if memory is not None:
            both = memory.attend(self, both)  # [B, 2 H, T, d]
        key, value = both.chunk(2, dim=1)  # [B, H, T, d]
        scale = (x.shape[2] // self.heads) ** -0.5
        bias = by_distance(position @ place, key.shape[2]) * scale  # [B, H, n, T]
        if sees is not None:
            bias = bias.masked_fill(~sees, -torch.inf)  # [B, H, n, T]
        mixed = F.scaled_dot_product_attention(content, key, value, attn_mask=bias)  # [B, H, n, d]
        return linear(mixed.transpose(1, 2).flatten(2), self.out)  # [B, n, D]


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
        """x [B, n, D] -> [B, n, D]; the other two as in ``Attention``."""
        x = x + self.attention(self.attention_norm(x), sees, memory)  # [B, n, D]
        inner = linear(self.linear_norm(x), self.rise, activation="silu")  # [B, n, I]
        return linear(inner, self.fall, add=x)  # [B, n, D]


class Entry(nn.Module):
    """Linear layer, norm, and the scale that Transformers give to embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, n, D] -> [B, n, D]."""
        return self.norm(linear(x, self.linear)) * x.shape[-1] ** 0.5  # [B, n, D]


class LookAhead(nn.Module):
    """Convolutions over a position and the next ``reach`` ones, then over it and the last two.

    ``PreLookaheadLayer`` in cosyvoice/transformer/upsample_encoder.py.
    """

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
        h = F.pad(torch.cat([x, following], dim=1), (0, 0, 0, short))  # [B, n + reach, D]
        h = F.leaky_relu(linear(neighbours(h, self.reach + 1), self.ahead))  # [B, n, D]
        h = neighbours(continued(self.behind, h, 2, memory), 3)  # [B, n, 3 D]
        return linear(h, self.behind, add=x)  # [B, n, D]


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
        """x [B, n, D] and the codes after it [B, m, D], as in ``LookAhead`` -> [B, 2 n, D].

        Masks and memories come in pairs, for 25 and 50 Hz: a whole utterance with masks, or one
        chunk after the other with memories.
        """
        h = self.look_ahead(self.entry(x), self.entry(following), memories[0])  # [B, n, D]
        for block in self.blocks:
            h = block(h, sees[0], memories[0])  # [B, n, D]
        h = h.repeat_interleave(self.RISE, dim=1)  # [B, 2 n, D]
        h = continued(self.rise, h, 2 * self.RISE, memories[1])  # [B, 2 n + 4, D]
        h = self.fine_entry(linear(neighbours(h, 2 * self.RISE + 1), self.rise))  # [B, 2 n, D]
        for block in self.fine_blocks:
            h = block(h, sees[1], memories[1])  # [B, 2 n, D]
        return self.norm(h)  # [B, 2 n, D]
