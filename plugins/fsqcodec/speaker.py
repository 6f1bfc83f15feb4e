"""The speaker embedding: a recording to one vector, and its modulation of the decoder (FiLM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.fsqcodec.layers import Block, Convolution, LogMel

WIDTH = 128  # channels: a voice is a few dozen numbers, so this need not be as wide as the trunk
Film = tuple[tuple[Tensor, Tensor], ...]
"""For each block of the decoder, a gain [B, C, 1] and a shift [B, C, 1] for its channels."""


class SpeakerEncoder(nn.Module):
    """Any stretch of speech to a vector of fixed length that describes its voice.

    Mean and deviation over time forget the order of the frames, and with it most of the text
    (x-vectors, Snyder et al. 2018); the normalised vector cannot grow without bound.
    """

    def __init__(self, sample_rate: int, hop: int, speaker_width: int):
        super().__init__()
        self.mel = LogMel(sample_rate, window=1024, hop=hop, mels=80, top_hz=11_000.0)
        self.entry = Convolution(80, WIDTH, 5, lookahead=2)
        self.blocks = nn.ModuleList(Block(WIDTH, 7, 2, 3) for _ in range(3))
        self.project = nn.Linear(2 * WIDTH, speaker_width)
        self.width = speaker_width

    def forward(self, audio: Tensor) -> Tensor:
        """audio [B, S] in -1..1 -> speaker [B, E], of mean 0 and variance 1."""
        h = self.entry((self.mel(audio) + 3.0) * 0.4)  # [B, 128, T]
        for block in self.blocks:
            h = block(h)  # [B, 128, T]
        h = h.float()
        deviation = (h.var(dim=2, unbiased=False) + 1e-5).sqrt()  # [B, 128]
        pooled = torch.cat([h.mean(dim=2), deviation], 1)  # [B, 256]
        return F.layer_norm(self.project(pooled), (self.width,))  # [B, E]


class Modulation(nn.Module):
    """A speaker vector to gains and shifts of every block (FiLM, arXiv:1709.07871).

    Begins as no change at all, so that a decoder of one voice can learn others.
    """

    def __init__(self, speaker_width: int, widths: list[int]):
        super().__init__()
        self.widths = widths
        self.project = nn.Linear(speaker_width, 2 * sum(widths))
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, speaker: Tensor) -> Film:
        """speaker [B, E] -> a gain [B, C, 1] and a shift [B, C, 1] for each width C."""
        sizes = [width for width in self.widths for _ in ("gain", "shift")]
        parts = self.project(speaker)[..., None].split(sizes, 1)  # [B, C, 1] each
        return tuple(
            (1.0 + gain, shift) for gain, shift in zip(parts[::2], parts[1::2], strict=True)
        )
