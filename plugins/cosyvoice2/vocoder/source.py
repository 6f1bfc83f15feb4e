"""The vocoder's excitation: pitch from the mel spectrogram, harmonics of it, and noise.

Neural source-filter model (arXiv:1904.12088, section II-B) in the form of the release
(``SourceModuleHnNSF`` in cosyvoice/hifigan/generator.py, ``ConvRNNF0Predictor`` in
cosyvoice/hifigan/f0_predictor.py): sines of the pitch and its overtones where it is voiced, noise
everywhere, mixed by a learned sum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2.vocoder.config import HiFTConfig
from wishbone.plugins.cosyvoice2.vocoder.layers import Convolution, Memory

Noise = Callable[[int], Tensor]
"""A number of samples -> new noise [B, samples, harmonics + 1]."""


class Pitch(nn.Module):
    """Mel frames [B, mels, T] -> pitch [B, T] in Hz, float64.

    Double precision costs a hundredth of the vocoder and keeps rounding, which differs between a
    stream and the whole, from adding up in the phase of the sines.
    """

    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        widths = [mels, *[width] * 5]
        self.convolutions = nn.ModuleList(
            Convolution(a, b, 3, dtype=torch.float64)
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.out = nn.Linear(width, 1, dtype=torch.float64)

    def forward(self, mel: Tensor, memory: Memory) -> Tensor:
        """mel [B, mels, T] -> pitch [B, T'] in Hz, as far as it is final."""
        x = mel.transpose(1, 2).to(self.out.weight.dtype)  # [B, T, mels]
        for convolution in self.convolutions:
            x = F.elu(convolution(x, memory))  # [B, T', W]
        return self.out(x).squeeze(2).abs().double()  # [B, T']

    def ready(self, positions: int) -> int:
        """Count the frames of pitch that are final after so many mel frames, before the last."""
        for convolution in self.convolutions:
            positions = convolution.ready(positions)
        return positions


class Source(nn.Module):
    """Pitch [B, T] in Hz -> excitation [B, 1, S], S = T frame.

    Each frame's pitch holds from the middle of the frame before to its own middle, so that the
    phase is continuous; before the first middle and after the last one the phase stands still, as
    in the release. A frame is voiced or not as a whole.
    """

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        self.config = config
        self.frame = config.frame
        self.mix = nn.Linear(config.harmonics + 1, 1)
        # odd frame lengths would put a middle between two samples
        if self.frame % 2:
            raise ValueError(f"a frame of {self.frame} samples has no middle")

    def forward(self, pitch: Tensor, memory: Memory, noise: Noise) -> Tensor:
        """pitch [B, T] in Hz -> excitation [B, 1, S], as far as it is final."""
        parts = self._stretches(pitch, memory)
        if not parts:
            return self.mix.weight.new_zeros(len(pitch), 1, 0)  # [B, 1, 0]
        turns, voiced = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))  # [B, S, ...]
        # one draw a stretch: the same noise however the frames are grouped into pushes
        drawn = torch.cat([noise(stretch.shape[1]) for stretch, _ in parts], dim=1)  # [B, S, H]
        return self._excite(turns, voiced, drawn.to(turns.device))  # [B, 1, S]

    def _stretches(self, pitch: Tensor, memory: Memory) -> list[tuple[Tensor, Tensor]]:
        """Compute turns [B, n, H] and voicing [B, n, 1] between the middles of frames.

        A turn is 2 pi of phase; H counts the pitch and its overtones.
        """
        half, parts = self.frame // 2, []
        distance = torch.arange(self.frame, device=pitch.device, dtype=torch.float64) + 0.5  # [n]
        overtones = torch.arange(1, self.config.harmonics + 2, device=pitch.device)  # [H]
        step = (pitch[:, :, None] * overtones / self.config.sample_rate) % 1.0  # [B, T, H]
        voiced = (pitch > self.config.voiced_above).double()[:, :, None]  # [B, T, 1]
        turns, before = memory.get((self, "turns")), memory.get((self, "voiced"))  # [B, 1, H or 1]
        for t in range(pitch.shape[1]):
            now = step[:, t : t + 1]  # [B, 1, H]
            if turns is None or before is None:
                turns = now * self.frame % 1.0  # [B, 1, H]
                parts.append((turns.expand(-1, half, -1), voiced[:, :1].expand(-1, half, -1)))
            else:
                sides = torch.cat([before, voiced[:, t : t + 1]], dim=1)  # [B, 2, 1]
                moving = turns + now * distance[:, None]  # [B, n, H]
                parts.append((moving, sides.repeat_interleave(half, dim=1)))
                turns = (turns + now * self.frame) % 1.0  # [B, 1, H]
            before = voiced[:, t : t + 1]  # [B, 1, 1]
        if turns is not None and before is not None:
            memory.store((self, "turns"), turns)
            memory.store((self, "voiced"), before)
            if memory.last:
                parts.append((turns.expand(-1, half, -1), before.expand(-1, half, -1)))
        return parts

    def _excite(self, turns: Tensor, voiced: Tensor, noise: Tensor) -> Tensor:
        """turns [B, S, H], voiced [B, S, 1] and noise [B, S, H] -> excitation [B, 1, S]."""
        config, weight = self.config, self.mix.weight
        sines = torch.sin(2 * torch.pi * (turns % 1.0).float()) * config.amplitude  # [B, S, H]
        voiced = voiced.float()  # [B, S, 1]
        loudness = voiced * config.noise + (1.0 - voiced) * config.amplitude / 3  # [B, S, 1]
        excitation = sines * voiced + loudness * noise.float()  # [B, S, H]
        return torch.tanh(self.mix(excitation.to(weight.dtype))).transpose(1, 2)  # [B, 1, S]

    def ready(self, positions: int) -> int:
        """Count the samples that are final after so many frames of pitch, before the last."""
        return max(0, positions * self.frame - self.frame // 2)
