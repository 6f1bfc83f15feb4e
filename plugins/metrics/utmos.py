"""Metric ``utmos``: the strong learner of UTMOS, from its published weights in a folder.

Saeki et al. 2022, "UTMOS: UTokyo-SaruLab system for VoiceMOS Challenge 2022". Its package needs
fairseq, so that the network is put together here from transformers' wav2vec 2.0 and PyTorch's
LSTM; tensors keep the names of the published checkpoint, saved once as safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wishbone.core.contract.errors import DataError
from wishbone.core.contract.extensions.metric import AudioMetric, Clip, MetricInfo, Package, Value
from wishbone.plugins.metrics.versions import version_of
from wishbone.plugins.metrics.weights_folder import FILE, WeightsOptions, digest_of, folder_of

RATE = 16_000
"""Samples per second the network wants."""
DOMAIN, JUDGE = 0, 288
"""Rows of the learned vectors of data set and listener that the authors' demonstration takes."""
DOMAINS, JUDGES, SIZE, HIDDEN, WIDE = 3, 3000, 128, 512, 2048
"""Shapes of the published network."""
SHORTEST = 400
"""Samples that the first layers of wav2vec 2.0 read for one frame."""
NAMES = (
    (r"^feature_extractors\.0\.ssl_model\.", "listener."),
    (r"^feature_extractors\.1\.embedding\.", "domains."),
    (r"^output_layers\.0\.judge_embedding\.", "judges."),
    (r"^output_layers\.0\.decoder_rnn\.", "memory."),
    (r"^output_layers\.1\.net\.", "projection."),
    (r"\.conv_layers\.(\d+)\.0\.", r".conv_layers.\1.conv."),
    (r"\.conv_layers\.0\.2\.", ".conv_layers.0.layer_norm."),
    (r"^listener\.layer_norm\.", "listener.feature_projection.layer_norm."),
    (r"^listener\.post_extract_proj\.", "listener.feature_projection.projection."),
    (r"\.pos_conv\.0\.weight_g$", ".pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"\.pos_conv\.0\.weight_v$", ".pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"\.pos_conv\.0\.", ".pos_conv_embed.conv."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"^listener\.mask_emb$", "listener.masked_spec_embed"),
)
"""Names of the published checkpoint -> names here; applied in order."""


class Network(nn.Module):
    """wav2vec 2.0, a vector of the data set and one of a listener, an LSTM over all, a number."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        self.listener = Wav2Vec2Model(Wav2Vec2Config())
        width = self.listener.config.hidden_size
        self.domains, self.judges = nn.Embedding(DOMAINS, SIZE), nn.Embedding(JUDGES, SIZE)
        self.memory = nn.LSTM(width + 2 * SIZE, HIDDEN, batch_first=True, bidirectional=True)
        self.projection = nn.Sequential(
            nn.Linear(2 * HIDDEN, WIDE), nn.ReLU(), nn.Dropout(0.3), nn.Linear(WIDE, 1)
        )

    def forward(self, audio: Tensor) -> Tensor:
        """audio [B, S] at ``RATE`` -> predicted opinions [B], from 1 to 5."""
        frames = self.listener(audio).last_hidden_state  # [B, T, C]
        known = torch.cat([self.domains.weight[DOMAIN], self.judges.weight[JUDGE]])  # [2 * SIZE]
        known = known.expand(*frames.shape[:2], -1)  # [B, T, 2 * SIZE]
        inputs = torch.cat([frames, known], dim=2)  # [B, T, C + 2 * SIZE]
        scores = self.projection(self.memory(inputs)[0])  # [B, T, 1]
        return scores.mean(dim=(1, 2)) * 2 + 3  # [B]


class UTMOS(AudioMetric):
    """Predicted quality, 1 to 5, by the most used predictor of synthetic speech."""

    Config: ClassVar[type] = WeightsOptions
    info = MetricInfo(
        key="utmos",
        title="predicted quality, UTMOS",
        unit="MOS",
        better="higher",
        margin=0.1,
        about="UTMOS, a network's guess of a listener's opinion of synthetic speech from 1 to 5.",
        worst=1.0,
    )
    packages = (Package("transformers", "transformers"),)

    def prepare(self) -> None:
        """Raise ``ConfigError`` where the folder is missing."""
        folder_of(self.info.key, self.config)

    @cached_property
    def _network(self) -> Any:
        return read(load_file(folder_of(self.info.key, self.config) / FILE), self.config.weights)

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """The mean over all frames of the clip."""
        audio = torch.from_numpy(clip.at(RATE))[None]  # [1, S]
        audio = nn.functional.pad(audio, (0, max(0, SHORTEST - audio.shape[1])))  # [1, S]
        with torch.inference_mode():
            return {self.info.key: float(self._network(audio))}

    def signature(self) -> str:
        """Weights and version of the package."""
        digest = digest_of(folder_of(self.info.key, self.config)) if self.config.weights else "none"
        return f"utmos|strong:{digest}|transformers:{version_of('transformers')}|16k"


def read(tensors: Mapping[str, Tensor], where: str) -> Network:
    """Build the network from the published checkpoint's tensors. Raises ``DataError``."""
    network = Network()
    renamed = {here(name): tensor for name, tensor in tensors.items()}
    expected = network.state_dict()
    missing = sorted(set(expected) - set(renamed) - {"listener.masked_spec_embed"})
    shaped = {k: v for k, v in renamed.items() if k in expected}
    wrong = [name for name, tensor in shaped.items() if tensor.shape != expected[name].shape]
    if missing or wrong:
        raise DataError(
            f"These are no weights of UTMOS's strong learner: {(missing + wrong)[0]} is missing or"
            " has another shape.",
            where,
            "Save the published checkpoint's 'state_dict' as model.safetensors, names unchanged.",
        )
    network.load_state_dict(shaped, strict=False)
    return network.eval()


def here(name: str) -> str:
    """The name of a published tensor in ``Network``."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name
