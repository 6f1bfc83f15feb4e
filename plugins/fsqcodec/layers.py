"""Layers of the codec, causal where it must stream."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.audio.files import mel_filters

Cache = dict[int, Tensor]
"""State of a stream: for every convolution (by identity) its last inputs [B, C, k - 1]."""


@cache
def _filters(bins: int, sample_rate: int, mels: int, top_hz: float, device: torch.device) -> Tensor:
    """Triangles [bins, mels] on the HTK mel scale, each with weights that sum to one."""
    triangles = mel_filters(bins, sample_rate, mels, top_hz, "htk").T  # [bins, mels]
    sums = triangles.sum(dim=0, keepdim=True)  # [1, mels]
    return (triangles / sums.clamp(min=1e-8)).to(device)  # [bins, mels]


class LogMel(nn.Module):
    """Audio [B, S] to log-mel [B, mels, S / hop]; frame i is centred on sample (i + 1/2) hop."""

    def __init__(self, sample_rate: int, window: int, hop: int, mels: int, top_hz: float):
        super().__init__()
        self.window_samples, self.hop = window, hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        # made at the first use: it needs torchaudio, which speaking does not
        self._bank = (window // 2 + 1, sample_rate, mels, top_hz)

    def forward(self, audio: Tensor) -> Tensor:
        """audio [B, S] -> log-mel [B, mels, T]."""
        pad = (self.window_samples - self.hop) // 2
        padded = F.pad(audio, (pad, pad))  # [B, S + window - hop]
        frames = padded.unfold(-1, self.window_samples, self.hop)  # [B, T, window]
        magnitude = torch.fft.rfft(frames * self.window).abs()  # [B, T, bins]
        mel = magnitude @ _filters(*self._bank, audio.device)  # [B, T, mels]
        # a tenth of the cells of clean speech lie under this floor, 75 dB below its loudest ones
        return mel.clamp(min=3e-4).log().transpose(1, 2)  # [B, mels, T]


class Convolution(nn.Module):
    """Convolution along time that sees ``lookahead`` positions ahead, for whole sequences.

    With a cache it is causal: it continues where the last call stopped, and its output lags
    ``lookahead`` positions behind its input.
    """

    def __init__(
        self, width_in: int, width_out: int, kernel: int, *, lookahead: int = 0, groups: int = 1
    ):
        super().__init__()
        self.convolution = nn.Conv1d(width_in, width_out, kernel, groups=groups)
        self.behind, self.lookahead = kernel - 1 - lookahead, lookahead

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x [B, C, T] -> [B, C', T]; with a cache, the positions that are final now."""
        if cache is None:
            return self.convolution(F.pad(x, (self.behind, self.lookahead)))  # [B, C', T]
        reach = self.behind + self.lookahead
        before = cache.get(id(self))
        if before is None:
            before = x.new_zeros(x.shape[0], x.shape[1], self.behind)  # [B, C, behind]
        x = torch.cat([before, x], dim=2)  # [B, C, before + T]
        cache[id(self)] = x[:, :, max(0, x.shape[2] - reach) :]  # [B, C, up to k - 1]
        if x.shape[2] <= reach:
            return x.new_zeros(x.shape[0], self.convolution.out_channels, 0)  # [B, C', 0]
        return self.convolution(x)  # [B, C', before + T - reach]


class Block(nn.Module):
    """ConvNeXt block (arXiv:2201.03545) on [B, C, T]."""

    def __init__(self, width: int, kernel: int, expansion: int, lookahead: int):
        super().__init__()
        self.depthwise = Convolution(width, width, kernel, lookahead=lookahead, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width * expansion)
        self.down = nn.Linear(width * expansion, width)
        # layer scale: a block begins almost as the identity, so that deep stacks train at once
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x [B, C, T] -> [B, C, T]."""
        h = self.depthwise(x, cache).transpose(1, 2)  # [B, T, C]
        h = self.scale * self.down(F.gelu(self.up(self.norm(h))))  # [B, T, C]
        return x + h.transpose(1, 2)  # [B, C, T]


class Upsample(nn.Module):
    """[B, C, T] -> [B, C', factor T]; every position becomes ``factor`` new ones on its own."""

    def __init__(self, width_in: int, width_out: int, factor: int):
        super().__init__()
        self.factor, self.width_out = factor, width_out
        self.linear = nn.Linear(width_in, width_out * factor)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T] -> [B, C', factor T]."""
        batch, _, length = x.shape
        y = self.linear(x.transpose(1, 2))  # [B, T, factor C']
        y = y.reshape(batch, length * self.factor, self.width_out)  # [B, factor T, C']
        return y.transpose(1, 2)  # [B, C', factor T]
