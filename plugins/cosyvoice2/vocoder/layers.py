"""Layers of the vocoder. Each goes on where its last call stopped, so a stream is exact.

A layer is called with the new part of its input and returns the final part of its output;
``Memory`` holds the inputs it still needs. A complete utterance is one call whose memory says
``last``, so there is only one way through the vocoder, and a stream differs by rounding alone.
Channels stand together, [B, T, C], as the fastest convolutions of a CPU want them.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2.packed import convolve
from wishbone.plugins.cosyvoice2.vocoder.snake import fused


class Memory:
    """The state of one stream in every layer; ``last`` says that its input ends with this call."""

    def __init__(self) -> None:
        self.last = False
        self.counts: dict[Hashable, int] = {}
        self._stored: dict[Hashable, Tensor] = {}

    def get(self, place: Hashable) -> Tensor | None:
        """Return the tensor stored at ``place``, if there is one."""
        return self._stored.get(place)

    def store(self, place: Hashable, x: Tensor) -> None:
        """Store a copy of ``x``: a view would hold all of the tensor it looks into."""
        self._stored[place] = x.clone()

    def join(self, place: Hashable, x: Tensor, zeros: int = 0) -> Tensor:
        """Put the tensor stored at ``place``, at first ``zeros`` zeros, before x [B, T, C]."""
        before = self.get(place)
        if before is None:
            return F.pad(x, (0, 0, zeros, 0)) if zeros else x  # [B, zeros + T, C]
        return torch.cat([before, x], dim=1) if before.shape[1] else x  # [B, k + T, C]

    def align(self, place: Hashable, *signals: Tensor) -> list[Tensor]:
        """Return the positions that all signals [B, T, C] have by now, and store those ahead."""
        joined = [self.join((place, i), x) for i, x in enumerate(signals)]  # [B, T_i, C] each
        ready = min(x.shape[1] for x in joined)
        for i, x in enumerate(joined):
            self.store((place, i), x[:, ready:])
        return [x[:, :ready] for x in joined]  # [B, T, C] each


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
        """Count the positions before the next input, which its maker may leave free."""
        before = memory.get(self)
        if before is not None:
            return before.shape[1]
        return 0 if memory.last else self.padding

    def forward(self, x: Tensor, memory: Memory, room: int = 0) -> Tensor:
        """x [B, room + T, C] -> [B, T', C']; the first ``room`` positions are not filled yet."""
        before = memory.get(self)  # [B, k, C]
        if memory.last and before is None and x.shape[1]:
            # all at once: the library pads without a copy
            return convolve(x, self.convolution, self.padding)  # [B, T', C']
        if room:
            x[:, :room] = 0.0 if before is None else before  # [B, room, C]
        else:
            x = memory.join(self, x, self.padding)  # [B, k + T, C]
        if memory.last:
            x = F.pad(x, (0, 0, 0, self.padding))  # [B, k + T + padding, C]
        outputs = max(0, (x.shape[1] - self.reach) // self.stride + 1)
        memory.store(self, x[:, outputs * self.stride :])
        if not outputs:
            return x.new_zeros(x.shape[0], 0, self.convolution.out_channels)  # [B, 0, C']
        return convolve(x, self.convolution)  # [B, T', C']

    def ready(self, positions: int) -> int:
        """Count the outputs that are final after so many inputs, before the last."""
        return max(0, (positions + self.padding - self.reach) // self.stride + 1)


class Rise(nn.Module):
    """Transposed convolution [B, T, C] -> [B, rate T, C'], its ends cut equally.

    An output is the sum of ``kernel / rate`` inputs' shares; the shares of inputs that came before
    are stored and added.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, rate: int) -> None:
        super().__init__()
        if (kernel - rate) % 2 or not 0 <= kernel - rate <= 2 * rate:
            raise ValueError(f"a kernel of {kernel} cannot raise the rate {rate} times")
        weight = torch.randn(width_in, width_out, kernel) * width_in**-0.5  # [C, C', K]
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(width_out))  # [C']
        self.kernel, self.rate, self.cut = kernel, rate, (kernel - rate) // 2

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """x [B, T, C] -> [B, rate T, C'], fewer at the ends of the utterance."""
        overlap, before = self.kernel - self.rate, memory.get(self)  # before [B, overlap, C']
        if x.shape[1]:
            y = F.conv_transpose1d(x.transpose(1, 2), self.weight, stride=self.rate)  # [B, C', n]
            y = y.transpose(1, 2)  # [B, rate T + overlap, C']
        else:
            y = x.new_zeros(x.shape[0], overlap, self.weight.shape[1])  # [B, overlap, C']
        if before is not None:
            y = torch.cat([y[:, :overlap] + before, y[:, overlap:]], dim=1)  # [B, n, C']
        final = x.shape[1] * self.rate
        # before the first input nothing is stored, so the cut waits for it
        if x.shape[1] or before is not None:
            memory.store(self, y[:, final:])
        y = y[:, : final + (self.cut if memory.last else 0)]  # [B, final, C']
        return (y if before is not None else y[:, self.cut :]) + self.bias  # [B, n', C']

    def ready(self, positions: int) -> int:
        """Count the outputs that are final after so many inputs, before the last."""
        return max(0, positions * self.rate - self.cut)


class Mirror(nn.Module):
    """One position more at the start, a copy of the second one [B, T, C] -> [B, T + 1, C]."""

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """x [B, T, C] -> [B, T + 1, C] in the first call that has two positions."""
        if memory.counts.get(self):
            return x
        x = memory.join(self, x)  # [B, T, C]
        if x.shape[1] < 2:
            memory.store(self, x)
            return x[:, :0]  # [B, 0, C]
        memory.counts[self] = 1
        return torch.cat([x[:, 1:2], x], dim=1)  # [B, T + 1, C]


class Snake(nn.Module):
    """x + sin^2(a x) / a, with one learned a per channel (arXiv:2006.08195, equation 3).

    ``Snake`` in cosyvoice/transformer/activation.py.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width))  # [C]

    def forward(self, x: Tensor, room: int = 0) -> Tensor:
        """x [B, T, C] -> [B, room + T, C], whose first positions are left for the next layer."""
        # the release was trained with this much against division by zero
        inverse = 1.0 / (self.alpha + 1e-9)  # [C]
        y = fused(x, self.alpha, inverse, room)  # [B, room + T, C]
        if y is None:
            wave = (x * self.alpha).sin_()  # [B, T, C]
            y = torch.addcmul(x, wave, wave * inverse)  # [B, T, C]
            y = F.pad(y, (0, 0, room, 0))  # [B, room + T, C]
        return y


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
        """x [B, T, C] -> [B, T', C], as far as it is final."""
        for i, (wide, narrow) in enumerate(zip(self.wide, self.narrow, strict=True)):
            y = x  # [B, T, C]
            for snake, layer in ((self.before_wide[i], wide), (self.before_narrow[i], narrow)):
                room = layer.room(memory)
                y = layer(snake(y, room), memory, room)  # [B, T', C]
            x, y = memory.align((self, i), x, y)  # [B, T', C]
            x = x + y  # [B, T', C]
        return x

    def ready(self, positions: int) -> int:
        """Count the outputs that are final after so many inputs, before the last."""
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
        """x [B, 1, S] -> [B, n, window + 2], the frames that are final."""
        size = len(self.window)
        half, before = size // 2, memory.get(self)  # before [B, 1, k]
        if before is None and x.shape[2]:
            x = torch.cat([x[:, :, 1 : half + 1].flip(2), x], dim=2)  # [B, 1, half + S]
        elif before is not None:
            x = torch.cat([before, x], dim=2)  # [B, 1, k + S]
        if memory.last:
            x = torch.cat([x, x[:, :, -half - 1 : -1].flip(2)], dim=2)  # [B, 1, k + S + half]
        frames = max(0, (x.shape[2] - size) // self.hop + 1)
        if x.shape[2]:
            memory.store(self, x[:, :, frames * self.hop :])
        if not frames:
            return x.new_zeros(x.shape[0], 0, size + 2)  # [B, 0, window + 2]
        windowed = x[:, 0].unfold(1, size, self.hop) * self.window  # [B, n, window]
        spectrum = torch.fft.rfft(windowed)  # [B, n, window / 2 + 1]
        return torch.cat([spectrum.real, spectrum.imag], dim=2)  # [B, n, window + 2]

    def ready(self, positions: int) -> int:
        """Count the frames that are final after so many samples, before the last."""
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
        """spectra [B, n, window / 2 + 1] -> samples [B, S] that are final."""
        size, frames = len(self.window), spectra.shape[1]
        half, before = size // 2, memory.get(self)  # before [B + 1, 1, k]
        if not frames and before is None:
            return spectra.real.new_zeros(spectra.shape[0], 0)  # [B, 0]
        added = before  # [B + 1, 1, k]
        if frames:
            added = self._add(torch.fft.irfft(spectra, n=size) * self.window)  # [B + 1, 1, L]
            if before is not None:
                overlap = added[:, :, : before.shape[2]] + before  # [B + 1, 1, k]
                added = torch.cat([overlap, added[:, :, before.shape[2] :]], dim=2)  # [B + 1, 1, L]
        final = frames * self.hop
        memory.store(self, added[:, :, final:])
        if memory.last:
            final += size - self.hop - half
        # the first half window lies before the utterance
        skipped = memory.counts.get(self, 0)
        skip = min(half - skipped, final)
        memory.counts[self] = skipped + skip
        samples, weight = added[:-1, 0, skip:final], added[-1:, 0, skip:final]  # [B, S], [1, S]
        return samples / weight  # [B, S]

    def _add(self, windowed: Tensor) -> Tensor:
        """[B, n, window] -> sums [B + 1, 1, (n - 1) hop + window]; the last row is the windows'."""
        size, frames = windowed.shape[2], windowed.shape[1]
        squares = (self.window * self.window).expand(1, frames, size)  # [1, n, window]
        columns = torch.cat([windowed, squares.to(windowed.dtype)])  # [B + 1, n, window]
        length = (frames - 1) * self.hop + size
        columns = columns.transpose(1, 2)  # [B + 1, window, n]
        sums = F.fold(
            columns, (1, length), (1, size), stride=(1, self.hop)
        )  # [B + 1, 1, 1, length]
        return sums[:, :, 0]  # [B + 1, 1, length]

    def ready(self, positions: int) -> int:
        """Count the samples that are final after so many frames, before the last."""
        return max(0, positions * self.hop - len(self.window) // 2)
