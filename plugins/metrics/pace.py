"""Metrics ``pace`` and ``pauses``: how fast a text is spoken, and how much of it is silence.

Both are read from the loudness of 10 ms: a frame is silent where it is far below the loud ones.
They describe, so neither side of a comparison is the better one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wishbone.core.contract.extensions.metric import AudioMetric, Clip, MetricInfo, Value

RATE = 16_000
HOP = 160
"""Samples of a frame: 10 ms."""
BELOW = 40.0
"""Decibels below the loud frames (their 95th percentile) at which a frame counts as silent."""
SHORTEST = 20
"""Frames of a pause at least; the closure of a stop consonant is shorter."""
SETTINGS = f"frame:10ms|silent:-{BELOW:g}dB"


class Pace(AudioMetric):
    """Words of the text per second of speech, pauses included."""

    info = MetricInfo(
        key="pace",
        title="speaking rate",
        unit="words/s",
        better="neither",
        margin=None,
        about="Words of the text for each second from the first sound to the last; it describes.",
    )

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Words as they are written, over the time between the first and the last sound."""
        words = len(clip.text.split())
        return {self.info.key: words / (max(1, len(_inside(clip))) * HOP / RATE)}

    def signature(self) -> str:
        """How silence is told."""
        return f"pace|words as written|{SETTINGS}"


class Pauses(AudioMetric):
    """Share of the speech that is pauses."""

    info = MetricInfo(
        key="pauses",
        title="pauses",
        unit="%",
        better="neither",
        margin=None,
        about="Share of the time between the first sound and the last that is silence of 0.2 s or "
        "more; it describes.",
        digits=1,
    )

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Percent of the frames between the first and the last sound."""
        silent = _inside(clip)
        return {self.info.key: 100.0 * int(_runs(silent).sum()) / max(1, len(silent))}

    def signature(self) -> str:
        """How silence is told."""
        return f"pauses|{SETTINGS}|least:{SHORTEST * HOP / RATE:g}s"


def _inside(clip: Clip) -> np.ndarray:
    """A mask of the silent frames between the first sound and the last, [n]."""
    return clip.once("silent frames", lambda: silent_frames(clip.at(RATE)))


def silent_frames(audio: np.ndarray) -> np.ndarray:
    """audio [S] at ``RATE`` -> a mask of the silent frames between the first sound and the last."""
    frames = audio[: len(audio) // HOP * HOP].reshape(-1, HOP).astype(np.float64)  # [n, HOP]
    if not len(frames):
        return np.zeros(0, bool)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-12)  # [n] decibels
    silent = level < np.percentile(level, 95) - BELOW  # [n]
    sounding = np.flatnonzero(~silent)
    return silent[sounding[0] : sounding[-1] + 1]


def _runs(silent: np.ndarray) -> np.ndarray:
    """Lengths of the pauses of ``SHORTEST`` frames or more."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    return lengths[lengths >= SHORTEST]
