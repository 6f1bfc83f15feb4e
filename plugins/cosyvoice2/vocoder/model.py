"""HiFT, the release's vocoder: mel frames to 24 kHz audio, exactly the same in a stream.

HiFTNet (arXiv:2309.09493) as CosyVoice2 has it (``HiFTGenerator`` in
cosyvoice/hifigan/generator.py): a generator in the manner of HiFi-GAN that raises the frame rate in
three stages, adds the excitation of ``source.py`` at each of them, and ends in an inverse STFT of
16 samples. All of its convolutions see finitely far, so a stream keeps the
inputs they still need instead of computing frames twice and cross-fading: there is no seam to
hide. The price is that a sample waits for all it depends on: 395 ms of mel in the release's shape,
where upstream withholds 160 ms and blends two versions of it that differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2.vocoder.config import HiFTConfig
from wishbone.plugins.cosyvoice2.vocoder.layers import (
    Convolution,
    Memory,
    Mirror,
    ResidualBlock,
    Rise,
    Spectrum,
    Waveform,
)
from wishbone.plugins.cosyvoice2.vocoder.source import Noise, Pitch, Source


class Stage(nn.Module):
    """Raise the rate, add the excitation's spectrum at it, and take the mean of three blocks."""

    def __init__(self, config: HiFTConfig, index: int) -> None:
        super().__init__()
        width = config.width >> (index + 1)
        after = math.prod(config.rates[index + 1 :])  # STFT frames per position of this stage
        bins = config.window + 2
        self.slope = config.slope
        self.rise = Rise(2 * width, width, config.rise_kernels[index], config.rates[index])
        self.mirror = Mirror() if index == len(config.rates) - 1 else None
        self.fall = (
            Convolution(bins, width, 2 * after, stride=after, padding=after // 2)
            if after > 1
            else Convolution(bins, width, 1)
        )
        self.source = ResidualBlock(width, config.source_kernels[index], config.dilations)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, kernel, config.dilations) for kernel in config.kernels
        )

    def forward(self, x: Tensor, spectrum: Tensor, memory: Memory) -> Tensor:
        """x [B, T, 2 C] and spectrum [B, m, window + 2] -> [B, T', C], as far as it is final."""
        x = self.rise(F.leaky_relu(x, self.slope), memory)  # [B, T', C]
        if self.mirror is not None:
            x = self.mirror(x, memory)  # [B, T', C]
        source = self.source(self.fall(spectrum, memory), memory)  # [B, T', C]
        x, source = memory.align((self, "source"), x, source)  # [B, T', C]
        x = x + source  # [B, T', C]
        outputs = memory.align((self, "blocks"), *(block(x, memory) for block in self.blocks))
        total = outputs[0]  # [B, T', C]
        for y in outputs[1:]:
            total = total + y  # [B, T', C]
        return total / len(outputs)  # [B, T', C]

    def ready(self, positions: int, frames: int) -> int:
        """Count the outputs that are final after so many inputs and STFT frames."""
        risen = self.rise.ready(positions)
        if self.mirror is not None and risen > 1:
            risen += 1
        risen = min(risen, self.source.ready(self.fall.ready(frames)))
        return min(block.ready(risen) for block in self.blocks)


class HiFT(nn.Module):
    """Mel frames to audio. Weights are those of hift.pt, see ``names.py``."""

    def __init__(self, config: HiFTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HiFTConfig()
        self.sample_rate = config.sample_rate
        self.pitch = Pitch(config.mels, config.pitch_width)
        self.source = Source(config)
        self.spectrum = Spectrum(config.window, config.hop)
        self.entry = Convolution(config.mels, config.width, 7)
        self.stages = nn.ModuleList(Stage(config, i) for i in range(len(config.rates)))
        self.exit = Convolution(config.width >> len(config.rates), config.window + 2, 7)
        self.waveform = Waveform(config.window, config.hop)

    def forward(self, mel: Tensor, *, generator: torch.Generator) -> Tensor:
        """mel [B, mels, T] -> audio [B, T frame], all at once.

        A batch of one gets the samples a stream with the same generator gets.
        """
        memory = Memory()
        memory.last = True
        return self.advance(mel, memory, self.noise_from(generator, len(mel)))  # [B, S]

    def start(self, generator: torch.Generator) -> HiFTStream:
        """Start an utterance with noise of its own."""
        return HiFTStream(self, generator)

    def noise_from(self, generator: torch.Generator, batch: int = 1) -> Noise:
        """Make a source of normal noise for ``Source``, drawn where the generator lives.

        If that is the CPU, a seed sounds the same on every device.
        """
        harmonics = self.config.harmonics + 1

        def draw(samples: int) -> Tensor:
            shape = (batch, samples, harmonics)
            return torch.randn(shape, generator=generator, device=generator.device)  # [B, S, H]

        return draw

    def advance(self, mel: Tensor, memory: Memory, noise: Noise) -> Tensor:
        """New mel [B, mels, T] -> the samples [B, S] that are final with it.

        ``memory.last`` says that the utterance ends with it; T may then be 0.
        """
        excitation = self.source(self.pitch(mel, memory), memory, noise)  # [B, 1, S']
        return self.filter(mel, excitation, memory)  # [B, S]

    def filter(self, mel: Tensor, excitation: Tensor, memory: Memory) -> Tensor:
        """New mel [B, mels, T] and new excitation [B, 1, S'] -> final samples [B, S]."""
        dtype = self.entry.convolution.weight.dtype
        spectrum = self.spectrum(excitation.float(), memory).to(dtype)  # [B, m, window + 2]
        x = self.entry(mel.transpose(1, 2).to(dtype), memory)  # [B, T', C]
        for stage in self.stages:
            x = stage(x, spectrum, memory)  # [B, rate T', C / 2]
        # the slope of this last rectifier is PyTorch's default, not the config's
        x = self.exit(F.leaky_relu(x, 0.01), memory).float()  # [B, m', window + 2]
        magnitude, phase = x.chunk(2, dim=2)  # [B, m', window / 2 + 1] each
        # e^4.6 is already louder than anything that is not clipped
        magnitude = magnitude.exp().clamp(max=100.0)  # [B, m', window / 2 + 1]
        samples = self.waveform(torch.polar(magnitude, phase.sin()), memory)  # [B, S]
        return samples.clamp(-self.config.limit, self.config.limit)  # [B, S]

    def ready(self, frames: int) -> int:
        """Count the samples that are final after ``frames`` mel frames, before the last."""
        bins = self.spectrum.ready(self.source.ready(self.pitch.ready(frames)))
        positions = self.entry.ready(frames)
        for stage in self.stages:
            positions = stage.ready(positions, bins)
        return self.waveform.ready(self.exit.ready(positions))

    @property
    def lookahead(self) -> int:
        """Count the mel frames after a frame that its last sample waits for."""
        frames = 1000  # any number beyond the reach of the whole network
        return -(-(frames * self.config.frame - self.ready(frames)) // self.config.frame)


class HiFTStream:
    """One utterance's way through the vocoder; owns all of its state, whose size is constant."""

    def __init__(self, vocoder: HiFT, generator: torch.Generator) -> None:
        self._vocoder, self._memory = vocoder, Memory()
        self._noise = vocoder.noise_from(generator)
        self._started = False

    def push(self, mel: Tensor) -> Tensor:
        """Add mel [mels, T] -> samples [S] that are final now; S may be 0 while looking ahead."""
        if self._memory.last:
            raise RuntimeError("this stream is finished; start another one")
        if not mel.shape[1]:
            return self._nothing()
        self._started = True
        with torch.inference_mode():
            return self._vocoder.advance(mel[None], self._memory, self._noise)[0]  # [S]

    def finish(self) -> Tensor:
        """Return the samples [S] still held back. The stream cannot be used afterwards."""
        if self._memory.last:
            raise RuntimeError("this stream is finished; start another one")
        self._memory.last = True
        if not self._started:
            return self._nothing()
        with torch.inference_mode():
            empty = self._nothing().expand(1, self._vocoder.config.mels, 0)  # [1, mels, 0]
            return self._vocoder.advance(empty, self._memory, self._noise)[0]  # [S]

    def _nothing(self) -> Tensor:
        return torch.zeros(0, device=self._vocoder.waveform.window.device)  # [0]
