"""Metric ``similarity``: how near the voice is to recordings of the one that is imitated."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wishbone.core.contract.extensions.metric import Clip, MetricInfo, Package, SpeakerMetric
from wishbone.plugins.metrics.versions import version_of

if TYPE_CHECKING:
    from resemblyzer import VoiceEncoder

RATE = 16_000
"""Samples per second the network wants."""
SIZE = 256
"""Numbers of an embedding."""


class SpeakerSimilarity(SpeakerMetric):
    """Cosine of speaker embeddings (Wan et al. 2018, GE2E): Resemblyzer as it is."""

    info = MetricInfo(
        key="similarity",
        title="voice likeness",
        unit="cosine",
        better="higher",
        margin=0.01,
        about="How near a speaker-recognition network puts the voice to the reference recordings.",
        worst=0.0,
        primary=True,
        digits=3,
    )
    packages = (
        Package("resemblyzer", "resemblyzer"),
        Package("webrtcvad", "webrtcvad-wheels"),
        Package("librosa", "librosa"),
    )

    @cached_property
    def _encoder(self) -> VoiceEncoder:
        from resemblyzer import VoiceEncoder

        return VoiceEncoder("cpu", verbose=False)

    def embed(self, clip: Clip) -> np.ndarray:
        """The mean embedding [256] of windows of 1.6 s, of length 1; zeros where nobody speaks."""
        from resemblyzer import preprocess_wav

        voiced = preprocess_wav(clip.at(RATE))
        if not len(voiced):
            return np.zeros(SIZE, np.float32)
        return np.asarray(self._encoder.embed_utterance(voiced))  # [256]

    def signature(self) -> str:
        """Network and version of the package."""
        return f"similarity|ge2e-resemblyzer:{version_of('resemblyzer')}|16k|vad:webrtc"
