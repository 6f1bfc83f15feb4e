"""Metric ``dnsmos``: a listener's opinion, predicted from the sound alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wishbone.core.contract.extensions.metric import AudioMetric, Clip, MetricInfo, Package, Value
from wishbone.plugins.metrics.versions import version_of

RATE = 16_000
"""Samples per second the network wants."""


class DNSMOS(AudioMetric):
    """Predicted overall quality, 1 to 5 (Reddy et al. 2021, "DNSMOS P.835", the OVRL score).

    The package speechmos as it is, so that figures compare with others'.
    """

    info = MetricInfo(
        key="dnsmos",
        title="predicted quality",
        unit="MOS",
        better="higher",
        margin=0.1,
        about="DNSMOS, a network's guess of a listener's opinion from 1 to 5; it does not know "
        "the text.",
        worst=1.0,
        primary=True,
    )
    packages = (
        Package("speechmos", "speechmos"),
        Package("librosa", "librosa"),
        Package("onnxruntime", "onnxruntime"),
    )

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """The mean over windows of 9 s, one second apart; shorter clips are repeated."""
        from speechmos import dnsmos

        # resampling overshoots full scale a little, which the package refuses
        audio = np.clip(clip.at(RATE), -1, 1)
        scores: Any = dnsmos.run(audio, RATE)  # a dictionary for one clip
        return {self.info.key: float(scores["ovrl_mos"])}

    def signature(self) -> str:
        """Network, score and version of the package."""
        return f"dnsmos|speechmos:{version_of('speechmos')}|ovrl_mos|16k"
