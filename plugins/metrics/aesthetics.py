"""Metrics ``aesthetics_*``: Audiobox-Aesthetics' four axes, from weights in a folder.

Tjandra et al. 2025, "Meta Audiobox Aesthetics". The package reads its own network from a folder
with config.json and model.safetensors, as its model's page offers them (CC-BY-4.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch

from wishbone.core.contract.extensions.metric import AudioMetric, Clip, MetricInfo, Package, Value
from wishbone.plugins.metrics.versions import version_of
from wishbone.plugins.metrics.weights_folder import WeightsOptions, digest_of, folder_of

RATE = 16_000
"""Samples per second the network wants."""
WINDOW = 10
"""Seconds of a window, as the package cuts them: scores are means, weighed by what is filled."""
FILES = ("config.json", "model.safetensors")


class Aesthetics(AudioMetric):
    """One axis; the clip is listened to once for all of them."""

    Config: ClassVar[type] = WeightsOptions
    axis: ClassVar[str]
    """Name of the axis in the package."""
    packages = (Package("audiobox_aesthetics", "audiobox-aesthetics"),)

    def prepare(self) -> None:
        """Raise ``ConfigError`` where the folder is missing."""
        folder_of(self.info.key, self.config, FILES)

    @cached_property
    def _model(self) -> Any:
        from audiobox_aesthetics.model.aes import AesMultiOutput

        folder = folder_of(self.info.key, self.config, FILES)
        return AesMultiOutput.from_pretrained(str(folder), local_files_only=True).eval()

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """The axis' mean over windows."""
        values = clip.once(f"aesthetics {self.config.weights}", lambda: self._all(clip))
        return {self.info.key: values[self.axis]}

    def _all(self, clip: Clip) -> dict[str, float]:
        from audiobox_aesthetics.infer import make_inference_batch

        audio = torch.from_numpy(clip.at(RATE))[None]  # [1, S]
        parts, masks, weights, _ = make_inference_batch([audio], WINDOW, WINDOW, RATE)
        share = torch.tensor(weights) / sum(weights)  # [N]
        with torch.inference_mode():
            axes = self._model({"wav": torch.stack(parts), "mask": torch.stack(masks)})
        scales = self._model.target_transform
        return {
            axis: float(values @ share) * scales[axis]["std"] + scales[axis]["mean"]
            for axis, values in axes.items()
        }

    def signature(self) -> str:
        """Axis, weights and version of the package."""
        digest = digest_of(folder_of(self.info.key, self.config)) if self.config.weights else "none"
        version = version_of("audiobox-aesthetics")
        return f"{self.info.key}|{self.axis}:{digest}|audiobox-aesthetics:{version}|16k"


def _info(key: str, title: str, about: str) -> MetricInfo:
    return MetricInfo(
        key=key, title=title, unit="1 to 10", better="higher", margin=0.2, about=about, worst=1.0
    )


class Enjoyment(Aesthetics):
    """Content enjoyment."""

    axis = "CE"
    info = _info("aesthetics_enjoyment", "enjoyment", "Audiobox' guess of how much it is enjoyed.")


class Usefulness(Aesthetics):
    """Content usefulness."""

    axis = "CU"
    info = _info(
        "aesthetics_usefulness", "usefulness", "Audiobox' guess of its use for making content."
    )


class Complexity(Aesthetics):
    """Production complexity: near 1 to 2 for any single voice, so that it only describes."""

    axis = "PC"
    info = MetricInfo(
        key="aesthetics_complexity", title="complexity", unit="1 to 10", better="neither",
        margin=None, about="Audiobox' guess of how much sounds at once; it describes.",
    )  # fmt: skip


class Production(Aesthetics):
    """Production quality."""

    axis = "PQ"
    info = _info(
        "aesthetics_production", "production quality", "Audiobox' guess of technical quality."
    )
