"""Layers of the vocoder. Each goes on where its last call stopped, so a stream is exact.

A layer is called with what is new of its input and gives what is final of its output; ``Memory``
holds what it still needs. A whole utterance is one call whose memory says ``last``, so there is
only one way through the vocoder, and a stream differs from the whole by rounding alone. Channels
stand together, [B, T, C], as the fastest convolutions of a CPU want them.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2.packed import convolve
from wishbone.plugins.cosyvoice2.vocoder.snake import fused


class Memory:
    """What one stream remembers of every layer, and whether its input ends with this call."""

    def __init__(self) -> None:
        self.last = False
        self.counts: dict[Hashable, int] = {}
        self._held: dict[Hashable, Tensor] = {}

    def get(self, place: Hashable) -> Tensor | None:
        """What was kept at ``place``, if anything was."""
        return self._held.get(place)

    def keep(self, place: Hashable, x: Tensor) -> None:
        """Keep a copy of ``x``: a view would hold all of the tensor it looks into."""
        self._held[place] = x.clone()

    def join(self, place: Hashable, x: Tensor, zeros: int = 0) -> Tensor:
        """x [B, T, C] behind what was kept at ``place``, at first behind ``zeros`` zeros."""
        before = self.get(place)
        if before is None:
            return F.pad(x, (0, 0, zeros, 0)) if zeros else x
        return torch.cat([before, x], dim=1) if before.shape[1] else x

    def align(self, place: Hashable, *signals: Tensor) -> list[Tensor]:
        """The positions that all signals [B, T, C] have by now; what runs ahead is kept."""
        joined = [self.join((place, i), x) for i, x in enumerate(signals)]
        ready = min(x.shape[1] for x in joined)
        for i, x in enumerate(joined):
            self.keep((place, i), x[:, ready:])
        return [x[:, :ready] for x in joined]


class Convolution(nn.Module):
    """Convolution over [B, T, C] with ``padding`` zeros at both ends of the utterance."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel: int,
        *,
        dilation: int = 1,
        stride: int = 1,
        padding: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(
            width_in, width_out, kernel, stride, dilation=dilation, dtype=dtype
        )
        self.reach = (kernel - 1) * dilation + 1  # positions one output sees
        self.stride = stride
        self.padding = self.reach // 2 if padding is None else padding

    def room(self, memory: Memory) -> int:
        """Positions that stand before the next input; whoever makes it may leave them free."""
        before = memory.get(self)
        if before is not None:
            return before.shape[1]
        return 0 if memory.last else self.padding

    def forward(self, x: Tensor, memory: Memory, room: int = 0) -> Tensor:
        """The first ``room`` positions of ``x`` are those of ``room`` above, not filled yet."""
        before = memory.get(self)
        if memory.last and before is None and x.shape[1]:
            # the whole at once: the library pads without a copy
            return convolve(x, self.convolution, self.padding)
        if room:
            x[:, :room] = 0.0 if before is None else before
        else:
            x = memory.join(self, x, self.padding)
        if memory.last:
            x = F.pad(x, (0, 0, 0, self.padding))
        made = max(0, (x.shape[1] - self.reach) // self.stride + 1)
        memory.keep(self, x[:, made * self.stride :])
        if not made:
            return x.new_zeros(x.shape[0], 0, self.convolution.out_channels)
        return convolve(x, self.convolution)

    def ready(self, positions: int) -> int:
        """Outputs that are final after so many inputs, before the last."""
        return max(0, (positions + self.padding - self.reach) // self.stride + 1)


class Rise(nn.Module):
    """Transposed convolution [B, T, C] -> [B, rate T, C'], its ends cut equally.

    An output is the sum of ``kernel / rate`` inputs' shares; the shares of inputs that came before
    are kept and added.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, rate: int) -> None:
        super().__init__()
        if (kernel - rate) % 2 or not 0 <= kernel - rate <= 2 * rate:
            raise ValueError(f"a kernel of {kernel} cannot raise the rate {rate} times")
        self.weight = nn.Parameter(torch.randn(width_in, width_out, kernel) * width_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.kernel, self.rate, self.cut = kernel, rate, (kernel - rate) // 2

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        overlap, before = self.kernel - self.rate, memory.get(self)
        if x.shape[1]:
            y = F.conv_transpose1d(x.transpose(1, 2), self.weight, stride=self.rate).transpose(1, 2)
        else:
            y = x.new_zeros(x.shape[0], overlap, self.weight.shape[1])
        if before is not None:
            y = torch.cat([y[:, :overlap] + before, y[:, overlap:]], dim=1)
        final = x.shape[1] * self.rate
        # before the first input nothing is kept, so the cut waits for it
        if x.shape[1] or before is not None:
            memory.keep(self, y[:, final:])
        y = y[:, : final + (self.cut if memory.last else 0)]
        return (y if before is not None else y[:, self.cut :]) + self.bias

    def ready(self, positions: int) -> int:
        """Outputs that are final after so many inputs, before the last."""
        return max(0, positions * self.rate - self.cut)


class Mirror(nn.Module):
    """One position more at the start, a copy of the second one [B, T, C] -> [B, T + 1, C]."""

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        if memory.counts.get(self):
            return x
        x = memory.join(self, x)
        if x.shape[1] < 2:
            memory.keep(self, x)
            return x[:, :0]
        memory.counts[self] = 1
        return torch.cat([x[:, 1:2], x], dim=1)


class Snake(nn.Module):
    """x + sin^2(a x) / a, with one learned a per channel (arXiv:2006.08195, equation 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, room: int = 0) -> Tensor:
        """x [B, T, C] -> [B, room + T, C], whose first positions are left for somebody else."""
        # the release was trained with this much against division by zero
        inverse = 1.0 / (self.alpha + 1e-9)
        made = fused(x, self.alpha, inverse, room)
        if made is None:
            wave = (x * self.alpha).sin_()
            made = F.pad(torch.addcmul(x, wave, wave * inverse), (0, 0, room, 0))
        return made


class ResidualBlock(nn.Module):
    """HiFi-GAN's residual block (arXiv:2010.05646, appendix A.1) with Snake as its activation."""

    def __init__(self, width: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.wide = nn.ModuleList(
            Convolution(width, width, kernel, dilation=dilation) for dilation in dilations
        )
        self.narrow = nn.ModuleList(Convolution(width, width, kernel) for _ in dilations)
        self.before_wide = nn.ModuleList(Snake(width) for _ in dilations)
        self.before_narrow = nn.ModuleList(Snake(width) for _ in dilations)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        for i, (wide, narrow) in enumerate(zip(self.wide, self.narrow, strict=True)):
            y = x
            for snake, layer in ((self.before_wide[i], wide), (self.before_narrow[i], narrow)):
                room = layer.room(memory)
                y = layer(snake(y, room), memory, room)
            x, y = memory.align((self, i), x, y)
            x = x + y
        return x

    def ready(self, positions: int) -> int:
        """Outputs that are final after so many inputs, before the last."""
        for layer in (*self.wide, *self.narrow):
            positions = layer.ready(positions)
        return positions


class Spectrum(nn.Module):
    """Samples [B, 1, S] -> real before imaginary part [B, S / hop + 1, window + 2].

    Frame m is centred on sample m hop; the signal is mirrored at both ends.
    """

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        size = len(self.window)
        half, before = size // 2, memory.get(self)
        if before is None and x.shape[2]:
            x = torch.cat([x[:, :, 1 : half + 1].flip(2), x], dim=2)
        elif before is not None:
            x = torch.cat([before, x], dim=2)
        if memory.last:
            x = torch.cat([x, x[:, :, -half - 1 : -1].flip(2)], dim=2)
        made = max(0, (x.shape[2] - size) // self.hop + 1)
        if x.shape[2]:
            memory.keep(self, x[:, :, made * self.hop :])
        if not made:
            return x.new_zeros(x.shape[0], 0, size + 2)
        spectrum = torch.fft.rfft(x[:, 0].unfold(1, size, self.hop) * self.window)
        return torch.cat([spectrum.real, spectrum.imag], dim=2)

    def ready(self, positions: int) -> int:
        """Frames that are final after so many samples, before the last."""
        return max(0, (positions - len(self.window) // 2) // self.hop + 1)


class Waveform(nn.Module):
    """Spectra [B, n, window / 2 + 1] -> samples [B, S]: the inverse of ``Spectrum``.

    Overlapping frames are added and divided by the sum of their squared windows, which is that of
    the whole utterance at every sample, so no frame is louder for coming first in a push.
    """

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def forward(self, spectra: Tensor, memory: Memory) -> Tensor:
        size, frames = len(self.window), spectra.shape[1]
        half, before = size // 2, memory.get(self)
        if not frames and before is None:
            return spectra.real.new_zeros(spectra.shape[0], 0)
        added = before
        if frames:
            added = self._add(torch.fft.irfft(spectra, n=size) * self.window)
            if before is not None:
                kept = before.shape[2]
                added = torch.cat([added[:, :, :kept] + before, added[:, :, kept:]], dim=2)
        final = frames * self.hop
        memory.keep(self, added[:, :, final:])
        if memory.last:
            final += size - self.hop - half
        # the first half window lies before the utterance
        done = memory.counts.get(self, 0)
        skip = min(half - done, final)
        memory.counts[self] = done + skip
        samples, weight = added[:-1, 0, skip:final], added[-1:, 0, skip:final]
        return samples / weight

    def _add(self, pieces: Tensor) -> Tensor:
        """[B, n, window] -> sums [B + 1, 1, (n - 1) hop + window]; the last row is the windows'."""
        size, frames = pieces.shape[2], pieces.shape[1]
        squares = (self.window * self.window).expand(1, frames, size).to(pieces.dtype)
        columns = torch.cat([pieces, squares]).transpose(1, 2)
        length = (frames - 1) * self.hop + size
        return F.fold(columns, (1, length), (1, size), stride=(1, self.hop))[:, :, 0]

    def ready(self, positions: int) -> int:
        """Samples that are final after so many frames, before the last."""
        return max(0, positions * self.hop - len(self.window) // 2)
