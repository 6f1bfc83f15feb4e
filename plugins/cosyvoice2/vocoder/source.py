"""The vocoder's excitation: pitch from the mel spectrogram, harmonics of it, and noise.

Neural source-filter model (arXiv:1904.12088, section II-B) in the form of the release: sines of the
pitch and its overtones where it is voiced, noise everywhere, mixed by a learned sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2.vocoder.layers import Convolution, Memory

if TYPE_CHECKING:
    from wishbone.plugins.cosyvoice2.vocoder.model import HiFTConfig

Noise = Callable[[int], Tensor]
"""How many samples -> that much noise [B, samples, harmonics + 1], fresh at every call."""


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
        x = mel.transpose(1, 2).to(self.out.weight.dtype)
        for convolution in self.convolutions:
            x = F.elu(convolution(x, memory))
        return self.out(x).squeeze(2).abs().double()

    def ready(self, positions: int) -> int:
        """Frames of pitch that are final after so many mel frames, before the last."""
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
        parts = self._pieces(pitch, memory)
        if not parts:
            return self.mix.weight.new_zeros(len(pitch), 1, 0)
        turns, voiced = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        # one draw a piece: the same noise however the frames are grouped into pushes
        drawn = torch.cat([noise(piece.shape[1]) for piece, _ in parts], dim=1)
        return self._excite(turns, voiced, drawn.to(turns.device))

    def _pieces(self, pitch: Tensor, memory: Memory) -> list[tuple[Tensor, Tensor]]:
        """Turns [B, n, H] and voicing [B, n, 1] of each stretch between middles of frames."""
        half, parts = self.frame // 2, []
        distance = torch.arange(self.frame, device=pitch.device, dtype=torch.float64) + 0.5
        overtones = torch.arange(1, self.config.harmonics + 2, device=pitch.device)
        step = (pitch[:, :, None] * overtones / self.config.sample_rate) % 1.0  # [B, T, H] turns
        voiced = (pitch > self.config.voiced_above).double()[:, :, None]
        turns, before = memory.get((self, "turns")), memory.get((self, "voiced"))
        for t in range(pitch.shape[1]):
            now = step[:, t : t + 1]
            if turns is None or before is None:
                turns = now * self.frame % 1.0
                parts.append((turns.expand(-1, half, -1), voiced[:, :1].expand(-1, half, -1)))
            else:
                sides = torch.cat([before, voiced[:, t : t + 1]], dim=1)
                parts.append(
                    (turns + now * distance[:, None], sides.repeat_interleave(half, dim=1))
                )
                turns = (turns + now * self.frame) % 1.0
            before = voiced[:, t : t + 1]
        if turns is not None and before is not None:
            memory.keep((self, "turns"), turns)
            memory.keep((self, "voiced"), before)
            if memory.last:
                parts.append((turns.expand(-1, half, -1), before.expand(-1, half, -1)))
        return parts

    def _excite(self, turns: Tensor, voiced: Tensor, noise: Tensor) -> Tensor:
        config, weight = self.config, self.mix.weight
        sines = torch.sin(2 * torch.pi * (turns % 1.0).float()) * config.amplitude
        voiced = voiced.float()
        loudness = voiced * config.noise + (1.0 - voiced) * config.amplitude / 3
        excitation = sines * voiced + loudness * noise.float()
        return torch.tanh(self.mix(excitation.to(weight.dtype))).transpose(1, 2)

    def ready(self, positions: int) -> int:
        """Samples that are final after so many frames of pitch, before the last."""
        return max(0, positions * self.frame - self.frame // 2)
