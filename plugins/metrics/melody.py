"""Metrics of pitch: ``pitch``, ``pitch_spread``, ``prosody`` and ``final_pitch``, the last two
beside a reference.

Pitch is tracked as in ``core/audio/pitch.py`` (Boersma 1993). The first two describe; a flat
reading has a small spread. The others need the same sentence spoken by the reference.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import fft

from wishbone.core.audio import files as sound
from wishbone.core.audio import pitch
from wishbone.core.contract.extensions.metric import AudioMetric, Clip, MetricInfo, Package, Value
from wishbone.plugins.metrics.versions import version_of

RATE = 16_000
HOP = 160
"""Samples between two values: 10 ms."""
BANDS, WINDOW, COEFFICIENTS = 40, 400, 12
"""Mel bands, the window of 25 ms and the cepstral coefficients by which two readings are laid over
each other."""
FINAL_FRAMES = 20
"""Voiced frames at the end, 0.2 s: about the last syllable, on which a question rises."""
SETTINGS = "autocorrelation|10ms|voiced frames"


class Pitch(AudioMetric):
    """Median pitch of the voiced frames."""

    info = MetricInfo(
        key="pitch",
        title="pitch",
        unit="Hz",
        better="neither",
        margin=None,
        about="Median pitch of the voice; it describes.",
        digits=0,
    )

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Hertz; nothing where no frame is voiced."""
        hertz = voiced(clip)
        return {self.info.key: float(np.median(hertz))} if len(hertz) else {}

    def signature(self) -> str:
        """The tracker."""
        return f"pitch|median|{SETTINGS}"


class PitchSpread(AudioMetric):
    """Standard deviation of the voiced frames' pitch in semitones."""

    info = MetricInfo(
        key="pitch_spread",
        title="pitch spread",
        unit="semitones",
        better="neither",
        margin=None,
        about="Standard deviation of the pitch within a sentence: small is flat; it describes.",
    )

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Semitones; nothing where no frame is voiced."""
        hertz = voiced(clip)
        return {self.info.key: float(np.std(12 * np.log2(hertz)))} if len(hertz) else {}

    def signature(self) -> str:
        """The tracker."""
        return f"pitch_spread|standard deviation|{SETTINGS}"


class BesideReference(AudioMetric):
    """A metric of two readings of the same sentence."""

    needs_reference = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._reference: dict[str, Clip] = {}

    def set_reference(self, clips: Sequence[Clip]) -> None:
        """Take the recordings, by their keys."""
        self._reference = {clip.key: clip for clip in clips}

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """Semitones; nothing without the sentence in the reference, or without voiced frames."""
        other = self._reference.get(clip.key)
        distance = None if other is None else self.distance(clip, other)
        return {} if distance is None else {self.info.key: distance}

    @abstractmethod
    def distance(self, clip: Clip, other: Clip) -> float | None:
        """Semitones between two readings of a sentence; None where too little is voiced."""


class Prosody(BesideReference):
    """Root mean square of the difference of two melodies, each around its own median.

    The two readings are laid over each other by dynamic time warping of mel cepstra, as for the
    pitch error of the toolkit VERSA (Shi et al. 2024), which leaves the voices' height in.
    """

    info = MetricInfo(
        key="prosody",
        title="melody beside the reference",
        unit="semitones",
        better="lower",
        margin=None,
        about="Distance of the melody to the reference's reading of the same sentence, without "
        "regard to the voice's height or the pace; good readings differ, too.",
    )
    packages = (Package("librosa", "librosa"),)

    def distance(self, clip: Clip, other: Clip) -> float | None:
        """As ``melody_distance``."""
        return melody_distance(clip, other)

    def signature(self) -> str:
        """The tracker and the alignment."""
        warping = f"dtw:mfcc{COEFFICIENTS}|librosa:{version_of('librosa')}"
        return f"prosody|rms around the median|{SETTINGS}|{warping}"


class FinalPitch(BesideReference):
    """How far the last 0.2 s of voice are from the reference's, each above its own median.

    A question that the reference ends on a rise and the clip on a fall is some ten semitones off.
    """

    info = MetricInfo(
        key="final_pitch",
        title="final pitch beside the reference",
        unit="semitones",
        better="lower",
        margin=None,
        about="Distance of the pitch at the end of a sentence to the reference's, without regard "
        "to the voice's height: whether a question rises where the reference's does.",
    )

    def distance(self, clip: Clip, other: Clip) -> float | None:
        """Between the two heights of the end; None where one of them has no voice."""
        here, there = _final_height(clip), _final_height(other)
        return None if here is None or there is None else abs(here - there)

    def signature(self) -> str:
        """The tracker and the stretch that counts as the end."""
        return f"final_pitch|last {FINAL_FRAMES} frames above the median|{SETTINGS}"


def _final_height(clip: Clip) -> float | None:
    """Semitones of the last voiced frames above the median of all; None without any."""
    hertz = voiced(clip)  # [n]
    if not len(hertz):
        return None
    return float(12 * np.log2(np.median(hertz[-FINAL_FRAMES:]) / np.median(hertz)))


def voiced(clip: Clip) -> np.ndarray:
    """Pitch of the voiced frames in hertz, [n]."""
    hertz, mask = _track(clip)
    return hertz[mask]


def _track(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    return clip.once("pitch", lambda: pitch.track(clip.at(RATE), RATE, HOP))


def _timbre(clip: Clip) -> np.ndarray:
    """Cepstral coefficients [COEFFICIENTS, T]: the first are left out (loudness), and so are the
    high ones, in which the harmonics of the pitch show."""
    audio = sound.Audio(torch.from_numpy(clip.at(RATE)), RATE)
    mel = sound.log_mel(audio, BANDS, WINDOW, HOP).numpy()  # [BANDS, T]
    return fft.dct(mel, axis=0, norm="ortho")[1 : COEFFICIENTS + 1]  # [COEFFICIENTS, T]


def melody_distance(clip: Clip, other: Clip) -> float | None:
    """Semitones between two readings of a sentence; None where no moment is voiced in both."""
    import librosa

    tracks = [_track(one) for one in (clip, other)]
    if not all(mask.any() for _, mask in tracks):
        return None
    _, path = librosa.sequence.dtw(_timbre(clip), _timbre(other), metric="euclidean")
    places = [np.minimum(path[:, i], len(tracks[i][0]) - 1) for i in (0, 1)]
    both = np.logical_and(*(mask[place] for (_, mask), place in zip(tracks, places, strict=True)))
    if not both.any():
        return None
    melodies = [
        12 * np.log2(hertz[place[both]] / np.median(hertz[mask]))
        for (hertz, mask), place in zip(tracks, places, strict=True)
    ]
    return float(np.sqrt(np.mean(np.square(melodies[0] - melodies[1]))))
