"""Metric ``distillmos``: a second network's guess of a listener's opinion."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from wishbone.core.contract.extensions.metric import AudioMetric, Clip, MetricInfo, Package, Value
from wishbone.plugins.metrics.versions import version_of

RATE = 16_000
"""Samples per second the network wants."""


class DistillMOS(AudioMetric):
    """Predicted quality, 1 to 5 (Stahl and Gamper 2025, "Distillation and pruning for scalable
    self-supervised representation-based speech quality assessment"): the package as it is.
    """

    info = MetricInfo(
        key="distillmos",
        title="predicted quality, distillmos",
        unit="MOS",
        better="higher",
        margin=0.1,
        about="DistillMOS, another network's guess of a listener's opinion from 1 to 5.",
        worst=1.0,
    )
    packages = (Package("distillmos", "distillmos"),)

    @cached_property
    def _model(self) -> Any:
        import distillmos

        # it prints the path of its weights
        with contextlib.redirect_stdout(io.StringIO()):
            model = distillmos.ConvTransformerSQAModel()
        return model.eval()

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """The mean over windows of 7.7 s, at most one second apart; shorter clips are padded."""
        audio = torch.from_numpy(clip.at(RATE))[None]  # [1, S]
        with torch.inference_mode():
            return {self.info.key: float(self._model(audio))}

    def signature(self) -> str:
        """Network and version of the package."""
        return f"distillmos|v7|distillmos:{version_of('distillmos')}|16k"
