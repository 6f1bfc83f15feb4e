"""Sizes of the vocoder, as in ``hift`` of the release's cosyvoice2.yaml."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


def _list(*values: int) -> list[int]:
    """Give a dataclass field a list as its default."""
    return field(default_factory=lambda: list(values))


@dataclass
class HiFTConfig:
    """Shape of the vocoder; the defaults are the release's."""

    mels: int = 80
    """Bands of a mel frame."""
    width: int = 512
    """Channels at the rate of mel frames; each stage halves them."""
    pitch_width: int = 512
    """Channels of the pitch predictor."""
    rates: list[int] = _list(8, 5, 3)
    """Factors by which the stages raise the rate."""
    rise_kernels: list[int] = _list(16, 11, 7)
    """Kernel of each stage's transposed convolution."""
    kernels: list[int] = _list(3, 7, 11)
    """Kernels of the residual blocks that work side by side in every stage."""
    source_kernels: list[int] = _list(7, 7, 11)
    """Kernel of the residual block on the excitation, for each stage."""
    dilations: list[int] = _list(1, 3, 5)
    """Dilations inside every residual block."""
    window: int = 16
    """Samples of a frame of the inverse STFT."""
    hop: int = 4
    """Samples between its frames."""
    sample_rate: int = 24_000
    """Samples per second of the audio."""
    harmonics: int = 8
    """Overtones of the excitation."""
    amplitude: float = 0.1
    """Amplitude of each sine; noise in unvoiced frames has a third of it as its deviation."""
    noise: float = 0.003
    """Deviation of the noise in voiced frames."""
    voiced_above: float = 10.0
    """Pitch in Hz above which a frame is voiced."""
    slope: float = 0.1
    """Slope below zero of the leaky rectifier before each stage."""
    limit: float = 0.99
    """Samples are clipped to this."""

    @property
    def frame(self) -> int:
        """Count the samples of a mel frame."""
        return math.prod(self.rates) * self.hop
