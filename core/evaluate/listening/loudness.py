"""Loudness of a recording by ITU-R BS.1770-4, and clips made equally loud without clipping.

The louder of two equal clips is preferred, so a test whose clips differ in loudness measures that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, log10, pi, tan
from typing import TypeVar

import numpy as np
from scipy.signal import butter, lfilter, sosfiltfilt

TARGET = -23.0
"""LUFS of every clip, as in EBU R 128."""
PEAK = 10 ** (-1 / 20)
"""Highest sample of a clip: 1 dB below full scale."""
LOWEST = -31.0
"""LUFS that a clip with high peaks may pull the others down to; beyond it, it stays softer."""
BLOCK, OVERLAP = 0.4, 0.75
"""Seconds of a measuring block, and the share of it that the next one covers again."""
SILENT, BELOW = -70.0, -10.0
"""Blocks that do not count: below so many LUFS, or so many units below the mean of the others."""
NOISE, DULL = 6.0, 1000.0
"""A catch trial's bad clip: decibels from noise up to speech, and hertz above which all is lost."""

Name = TypeVar("Name")


@dataclass(frozen=True)
class Matched:
    """Clips of equal loudness."""

    target: float
    """LUFS that they were brought to."""
    softer: list[str]
    """Names of clips that are softer than that, because their peaks would clip."""


def loudness(audio: np.ndarray, rate: int) -> float:
    """Integrated loudness of audio [S] in LUFS; minus infinity where nothing is to be heard."""
    weighted = _weighted(np.asarray(audio, np.float64), rate)  # [S]
    size = min(len(weighted), round(BLOCK * rate))
    if not size:
        return -float("inf")
    hop = max(1, round(BLOCK * (1 - OVERLAP) * rate))
    energy = np.concatenate([[0.0], np.cumsum(weighted**2)])  # [S + 1]
    begins = np.arange(0, len(weighted) - size + 1, hop)  # [N]
    power = (energy[begins + size] - energy[begins]) / size  # [N]
    power = power[power > _power(SILENT)]
    if not len(power):
        return -float("inf")
    power = power[power > _power(_lufs(float(power.mean())) + BELOW)]
    return _lufs(float(power.mean()))


def match(clips: Mapping[Name, np.ndarray], rate: int, target: float = TARGET) -> tuple[
    dict[Name, np.ndarray], Matched
]:  # fmt: skip
    """Bring clips [S] to one loudness; where peaks would clip, all become softer together."""
    levels = {name: loudness(clip, rate) for name, clip in clips.items()}
    peaks = {name: float(np.abs(clip).max(initial=0.0)) for name, clip in clips.items()}
    reach = {
        name: levels[name] + 20 * log10(PEAK / peaks[name])
        for name in clips
        if isfinite(levels[name]) and peaks[name] > 0
    }
    common = max(LOWEST, min([target, *reach.values()])) if reach else target
    common = min(common, target)
    equal = {
        name: clip * 10 ** ((min(common, reach[name]) - levels[name]) / 20)
        if name in reach
        else clip
        for name, clip in clips.items()
    }
    softer = [str(name) for name, level in reach.items() if level < common - 0.01]
    return equal, Matched(common, softer)


def low_pass(audio: np.ndarray, rate: int, hertz: float) -> np.ndarray:
    """audio [S] -> audio [S] without what is above ``hertz``: an anchor of MUSHRA."""
    if hertz >= 0.49 * rate:
        return audio
    sections = butter(8, hertz, fs=rate, output="sos")
    return sosfiltfilt(sections, audio).astype(np.float32)


def degrade(audio: np.ndarray, rate: int, seed: int) -> np.ndarray:
    """audio [S] -> audio [S] that everybody who listens hears to be bad: dull, and in noise."""
    dull = low_pass(audio, rate, DULL)  # [S]
    level = float(np.sqrt(np.mean(dull**2))) * 10 ** (-NOISE / 20)
    noise = np.random.default_rng(seed).standard_normal(len(dull))  # [S]
    return (dull + level * noise).astype(np.float32)


def _weighted(audio: np.ndarray, rate: int) -> np.ndarray:
    """Pass audio [S] through the two filters of K-weighting: a head's shelf, then a high pass."""
    for b, a in filters(rate):
        audio = np.asarray(lfilter(b, a, audio))  # [S]
    return audio


def filters(rate: int) -> list[tuple[list[float], list[float]]]:
    """Coefficients (b, a) of K-weighting's filters at any rate.

    The standard gives them at 48 kHz; these are the analogue filters behind them (Brecht De Man,
    "Evaluation of implementations of the EBU R128 loudness measurement", 2018), which give the
    standard's numbers there.
    """
    k, q = tan(pi * 1681.974450955533 / rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    norm = 1 + k / q + k * k
    shelf = [(high + band * k / q + k * k) / norm, 2 * (k * k - high) / norm,
             (high - band * k / q + k * k) / norm]  # fmt: skip
    poles = [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm]
    k, q = tan(pi * 38.13547087602444 / rate), 0.5003270373238773
    norm = 1 + k / q + k * k
    return [
        (shelf, poles),
        ([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm]),
    ]


def _lufs(power: float) -> float:
    return -0.691 + 10 * log10(power)


def _power(lufs: float) -> float:
    return 10 ** ((lufs + 0.691) / 10)
