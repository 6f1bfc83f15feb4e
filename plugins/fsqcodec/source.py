"""From a pitch curve and two spectral envelopes to a waveform: a source-filter synthesiser.

A voiced sound is a train of pulses (all harmonics of the pitch, equally strong), an unvoiced one
is noise; each is shaped by a filter given per frame as a log magnitude. The pulse filter has
minimum phase (Oppenheim & Schafer, ch. 13: the phase that follows from the magnitude through the
cepstrum), as a vocal tract nearly has, plus a learned deviation. Phase is therefore coherent from
the first training step, and a loss on magnitudes alone suffices.

Frames are ``hop`` samples apart and ``window`` samples long; frame j is centred on sample
(j + 1/2) hop, so that n frames make exactly n hop samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def pulses(pitch: Tensor, phase: Tensor, hop: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Band-limited pulse train of unit power.

    pitch [B, n+1] in Hz: the value at the end of each frame, the first entry being the end of the
    frame before. phase [B] in turns, float64. Returns samples [B, n hop] and the phase after.
    """
    start, end = pitch[:, :-1, None].double(), pitch[:, 1:, None].double()  # [B, n, 1] each
    ramp = torch.arange(1, hop + 1, dtype=torch.float64, device=pitch.device) / hop  # [hop]
    hertz = (start + (end - start) * ramp).flatten(1)  # [B, n hop]
    turns = phase[:, None] + torch.cumsum(hertz / sample_rate, dim=1)  # [B, n hop]
    # harmonics up to 10.5 kHz: the teacher's audio, made at 22.05 kHz, holds nothing above 11
    harmonics = (10500.0 / hertz).floor().clamp(min=1.0)  # [B, n hop]
    angle = 2.0 * math.pi * (turns - turns.floor())  # [B, n hop]
    half = torch.sin(angle / 2)  # [B, n hop]
    # Dirichlet kernel: sum of cos(k angle), k = 1..harmonics, in closed form
    safe = torch.where(half.abs() < 1e-6, torch.ones_like(half), half)  # [B, n hop]
    total = torch.sin((harmonics + 0.5) * angle) / (2 * safe) - 0.5  # [B, n hop]
    total = torch.where(half.abs() < 1e-6, harmonics, total)  # [B, n hop]
    after = turns[:, -1] - turns[:, -1].floor()  # [B]
    return (total * (2.0 / harmonics).sqrt()).float(), after


def frames_of(signal: Tensor, window: Tensor, hop: int) -> Tensor:
    """signal [B, S], already padded -> spectra [B, n, W/2 + 1] complex.

    The window is one for all, [W], or one for each signal, [B, 1, W].
    """
    frames = signal.unfold(-1, window.shape[-1], hop)  # [B, n, W]
    return torch.fft.rfft(frames * window)  # [B, n, W/2 + 1]


def minimum_phase(log_magnitude: Tensor) -> Tensor:
    """log_magnitude [..., F] -> phase [..., F] in radians of the minimum-phase filter."""
    bins = log_magnitude.shape[-1]
    size = 2 * (bins - 1)
    cepstrum = torch.fft.irfft(log_magnitude, n=size)  # [..., size]
    fold = torch.zeros(size, device=log_magnitude.device)  # [size]
    fold[1 : size // 2] = 2.0
    fold[0] = fold[size // 2] = 1.0
    return torch.fft.rfft(cepstrum * fold).imag  # [..., F]


def filtered(source: Tensor, log_magnitude: Tensor, phase: Tensor) -> Tensor:
    """source spectra times the filter exp(log_magnitude + i phase); all [B, n, F]."""
    return source * torch.polar(log_magnitude.exp(), phase)  # [B, n, F]


def overlap_add(spectra: Tensor, window: Tensor, hop: int) -> Tensor:
    """spectra [B, n, F] -> samples [B, (n - 1) hop + window], not yet divided by the window sum."""
    frames = torch.fft.irfft(spectra, n=window.shape[0]) * window  # [B, n, window]
    length = (frames.shape[1] - 1) * hop + window.shape[0]
    columns = frames.transpose(1, 2)  # [B, window, n]
    size = (1, window.shape[0])
    summed = F.fold(columns, (1, length), size, stride=(1, hop))  # [B, 1, 1, length]
    return summed[:, 0, 0]  # [B, length]
