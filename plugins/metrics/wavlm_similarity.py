"""Metric ``wavlm_similarity``: likeness of the voice by WavLM with a head for speakers."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from wishbone.core.contract.extensions.metric import Clip, MetricInfo, Package, SpeakerMetric
from wishbone.plugins.metrics.versions import version_of
from wishbone.plugins.metrics.weights_folder import WeightsOptions, digest_of, folder_of

RATE = 16_000
"""Samples per second the network wants."""
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
SHORTEST = 0.4
"""Seconds; the head's windows over time need as much, so that shorter clips are repeated."""


class WavLMSimilarity(SpeakerMetric):
    """Cosine of x-vectors over WavLM (Chen et al. 2022), read by transformers.

    The folder is one of ``WavLMForXVector``, such as the published "wavlm-base-plus-sv". The
    fine-tuned WavLM-large that lists of seed-tts-eval are judged by has another head.
    """

    Config: ClassVar[type] = WeightsOptions
    info = MetricInfo(
        key="wavlm_similarity",
        title="voice likeness, WavLM",
        unit="cosine",
        better="higher",
        margin=0.01,
        about="How near WavLM's speaker vectors put the voice to the reference recordings.",
        worst=0.0,
        digits=3,
    )
    packages = (Package("transformers", "transformers"),)

    def prepare(self) -> None:
        """Raise ``ConfigError`` where the folder is missing."""
        folder_of(self.info.key, self.config, FILES)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoFeatureExtractor, WavLMForXVector

        folder = folder_of(self.info.key, self.config, FILES)
        model = WavLMForXVector.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        return model.eval(), extractor

    def embed(self, clip: Clip) -> np.ndarray:
        """The x-vector [E] of the clip, of length 1."""
        model, extractor = self._parts
        audio = clip.at(RATE)
        audio = np.tile(audio, 1 + int(SHORTEST * RATE) // max(1, len(audio)))
        inputs = extractor(audio, sampling_rate=RATE, return_tensors="pt")
        with torch.inference_mode():
            vector = model(**inputs).embeddings[0].numpy()  # [E]
        return vector / max(float(np.linalg.norm(vector)), 1e-8)

    def signature(self) -> str:
        """Weights and version of the package."""
        digest = digest_of(folder_of(self.info.key, self.config)) if self.config.weights else "none"
        return f"wavlm_similarity|xvector:{digest}|transformers:{version_of('transformers')}|16k"
