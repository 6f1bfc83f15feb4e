"""Mel spectrograms of CosyVoice2: for its flow, its speech tokenizer and its speaker encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.audio.files import require_torchaudio


def mel_filters(bins: int, sample_rate: int, mels: int, top_hz: float) -> Tensor:
    """Triangles [mels, bins] on Slaney's mel scale, each of area one, in Hz, from 0 to ``top_hz``.

    The scale is linear to 1 kHz and logarithmic above (Slaney's Auditory Toolbox, 1998). Computed
    in double precision, as librosa's, which CosyVoice2's networks were trained on: torchaudio's, in
    single precision, differ by 1e-7, and a quiet cell of ``whisper_mel`` then by 2e-5.
    """
    knee, slope, step = 1000.0, 200.0 / 3, math.log(6.4) / 27  # Hz, Hz per mel, per mel
    top = top_hz / slope if top_hz < knee else knee / slope + math.log(top_hz / knee) / step
    mel = torch.linspace(0.0, top, mels + 2, dtype=torch.float64)  # [mels + 2]
    above = knee * torch.exp((mel - knee / slope) * step)  # [mels + 2]
    edges = torch.where(mel < knee / slope, mel * slope, above)  # [mels + 2] in Hz
    hertz = torch.linspace(0.0, sample_rate / 2, bins, dtype=torch.float64)  # [bins]
    low, middle, high = (edges[i : i + mels, None] for i in range(3))  # [mels, 1] each
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    triangles = torch.minimum(rising, falling)  # [mels, bins]
    return (triangles.clamp(min=0.0) * 2 / (high - low)).float()  # [mels, bins]


def vocoder_mel(samples: Tensor) -> Tensor:
    """24 kHz samples [S] -> [80, S / 480], as CosyVoice2's flow makes and its vocoder reads.

    HiFi-GAN's form (arXiv:2010.05646; ``mel_spectrogram`` in matcha/utils/audio.py): 80 ms Hann
    windows every 20 ms, frame i centred on sample 480 i + 240 with the signal mirrored at both
    ends, magnitudes, 80 mels up to 8 kHz, natural logarithm, floor of 1e-5.
    """
    window, hop = 1920, 480
    pad = (window - hop) // 2
    frames = len(samples) // hop
    # mirroring needs more samples than it adds
    samples = F.pad(samples, (0, max(0, pad + 1 - len(samples))))[None, None]  # [1, 1, S]
    padded = F.pad(samples, (pad, pad), mode="reflect")[0]  # [1, S + 2 pad]
    weights = torch.hann_window(window, device=samples.device)  # [1920]
    options = {"window": weights, "center": False, "return_complex": True}
    spectrum = torch.stft(padded, window, hop, **options)  # [1, 961, T]
    power = spectrum.real.square() + spectrum.imag.square()  # [1, 961, T]
    filters = mel_filters(window // 2 + 1, 24_000, 80, 8000.0).to(samples.device)  # [80, 961]
    mel = (filters @ torch.sqrt(power + 1e-9)).clamp(min=1e-5).log()  # [1, 80, T]
    return mel[0, :, :frames]  # [80, S / 480]


def whisper_mel(samples: Tensor, mels: int = 128) -> Tensor:
    """16 kHz samples [S] -> [mels, S / 160], as Whisper and CosyVoice2's speech tokenizer read.

    25 ms Hann windows every 10 ms, power, common logarithm, at most 8 below the loudest cell, then
    shifted and scaled to about -1..1 (arXiv:2212.04356, section 2.2).
    """
    window, hop = 400, 160
    frames = len(samples) // hop
    if not frames:
        return samples.new_zeros(mels, 0)  # [mels, 0]
    samples = F.pad(samples, (0, max(0, window // 2 + 1 - len(samples))))  # [S]
    weights = torch.hann_window(window, device=samples.device)  # [400]
    spectrum = torch.stft(samples, window, hop, window=weights, return_complex=True)  # [201, T + 1]
    power = spectrum[:, :frames].abs().square()  # [201, T]
    filters = mel_filters(window // 2 + 1, 16_000, mels, 8000.0).to(samples.device)  # [mels, 201]
    decades = (filters @ power).clamp(min=1e-10).log10()  # [mels, T]
    return (torch.maximum(decades, decades.max() - 8.0) + 4.0) / 4.0  # [mels, T]


def kaldi_mel(samples: Tensor, mels: int = 80) -> Tensor:
    """16 kHz samples [S] in -1..1 -> [frames, mels]: Kaldi's log-mel filter bank, no dither.

    25 ms Povey windows every 10 ms, only whole ones, pre-emphasis of 0.97, mels from 20 Hz.
    """
    if len(samples) < 400:
        return samples.new_zeros(0, mels)  # [0, mels]
    require_torchaudio()
    from torchaudio.compliance import kaldi

    rate = 16_000.0
    return kaldi.fbank(
        samples[None], num_mel_bins=mels, dither=0.0, sample_frequency=rate
    )  # [T, mels]
