"""Codecs of transformers as speech tokenizer and decoder, by the name of their family.

``codec_families.py`` says how each is called, ``codec_streams.py`` how its samples come early.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.backbone import State
from wishbone.core.contract.codec import CodeSpace, Decoder, DecoderStream, SpeechTokenizer
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import OneOf, OptionalSize
from wishbone.core.system.loading import load_tensors
from wishbone.plugins.hf import codec_families as families
from wishbone.plugins.hf import codec_streams as streams
from wishbone.plugins.hf import library
from wishbone.plugins.hf.codec_families import CODECS

TINY = {
    "sampling_rate": 3200, "upsampling_ratios": [4, 4], "frame_rate": 100.0, "num_filters": 4,
    "hidden_size": 32, "codebook_size": 64, "codebook_dim": 16, "num_quantizers": 3,
    "vector_quantization_hidden_dimension": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48, "sliding_window": 6,
    "upsample_groups": 32, "num_semantic_quantizers": 1,
}  # fmt: skip
"""A mimi for tests."""
STREAMS = {
    families.CAUSAL: streams.MimiStream,
    families.LAYERS: streams.LayerStream,
    families.WINDOW: streams.WindowStream,
    families.COMPLETE: streams.CompleteStream,
}


@dataclass
class HFCodecConfig:
    """A codec of transformers, by its values or the folder of a release."""

    model: Annotated[str, OneOf(*CODECS)] = "mimi"
    """Family of the codec; ``weights`` says it, too."""
    codebooks: OptionalSize = 0
    """Codebooks of a frame that are used, from the first; 0 for all."""
    config: dict[str, Any] = field(default_factory=dict)
    """Values of the family's configuration, by the names that transformers has."""
    weights: str | None = None
    """Folder with config.json and .safetensors, which says all the values."""

    def __post_init__(self) -> None:
        if self.weights and (weights_folder(self.weights) / "config.json").is_file():
            family, released = library.read_config(weights_folder(self.weights))
            if family not in CODECS:
                raise ValueError(f"'{family}' is none of the codecs {', '.join(CODECS)}")
            self.model, self.config = family, released | dict(self.config)


def _config(config: HFCodecConfig) -> Any:
    """Make the configuration for transformers. Raises ``ConfigError``."""
    cls = library.CONFIG_MAPPING[config.model]
    try:
        inner = cls(**config.config)
    # transformers checks values with classes of errors of several packages
    except Exception as error:
        raise ConfigError(
            f"A '{config.model}' of transformers refuses these values: {error}",
            "config of a codec 'hf'",
            f"The fields are those of {cls.__name__} in transformers {library.VERSION}.",
        ) from error
    families.check_config(config.model, inner)
    return inner


def _space(config: HFCodecConfig, inner: Any) -> CodeSpace:
    """Facts of the codes. Raises ``ConfigError`` for more codebooks than there are."""
    every = families.codebooks(inner)
    books = config.codebooks or every
    if books > every:
        raise ConfigError(
            f"This codec has {every} codebooks, not {books}.",
            "codebooks of a codec 'hf'",
            f"Write at most {every}.",
        )
    rate = families.sampling_rates(inner)[1] / families.hops(inner)[1]
    return CodeSpace(families.size(inner), rate, books, families.levels(inner))


class _Half(nn.Module):
    """The model of a codec without its other half; tokenizer and decoder each have one."""

    def _build(self, config: HFCodecConfig, encodes: bool) -> None:
        inner, self.family = _config(config), CODECS[config.model]
        with library.kernels_hidden():
            self.model = library.AutoModel.from_config(inner)
        families.drop(self.model, self.family.decodes if encodes else self.family.encodes)
        families.fill_codebooks(self.model)
        self.config, self.inner = config, inner
        self.codes = _space(config, inner)
        self.sample_rate = families.sampling_rates(inner)[0 if encodes else 1]
        self.hop = families.hops(inner)[0 if encodes else 1]

    def load_release(self, folder: Path) -> None:
        """Fill this half with a release's weights. Raises ``CheckpointError``."""
        library.require_folder(
            folder, "Name the folder of a codec that was downloaded; none is fetched."
        )
        tensors = library.read_model(folder).state_dict()
        names = self.model.state_dict()
        half = {f"model.{name}": t for name, t in tensors.items() if name in names}
        load_tensors(self, half, str(folder))


class HFSpeechTokenizer(_Half, SpeechTokenizer):
    """The encoder and the quantiser of a codec."""

    Config = HFCodecConfig

    def __init__(self, config: HFCodecConfig) -> None:
        super().__init__()
        self._build(config, encodes=True)

    @classmethod
    def small_config(cls) -> HFCodecConfig:
        """A tiny mimi."""
        return HFCodecConfig(config=dict(TINY))

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio [S] -> codes [T, Q]; zeros fill the last frame.

        Codebooks add detail to those before them, so the first are the same however many are used.
        """
        codes = self.family.encode(self.model, audio)  # [T, every Q]
        return codes[:, : self.codes.codebooks].contiguous()  # [T, Q]


class HFDecoder(_Half, Decoder):
    """The quantiser's tables and the decoder of a codec."""

    Config = HFCodecConfig

    def __init__(self, config: HFCodecConfig) -> None:
        super().__init__()
        self._build(config, encodes=False)
        self.samples_per_frame = self.hop
        way, part = self.family.streams, self.family.convolutions
        self.context = streams.frames_before(self.model.get_submodule(part)) if part else 0
        self.lookahead = {
            families.CAUSAL: 0,
            families.WINDOW: self.context,
            families.COMPLETE: streams.NEVER,
        }.get(way, 0)
        if way == families.LAYERS:
            self.lookahead = streams.frames_mirrored(self.model.decoder)

    @classmethod
    def small_config(cls) -> HFCodecConfig:
        """A tiny mimi."""
        return HFCodecConfig(config=dict(TINY))

    def start(
        self, *, seed: int = 0, speaker: Tensor | None = None, prompt: State | None = None
    ) -> DecoderStream:
        """Begin an utterance; nothing is drawn by chance."""
        return STREAMS[self.family.streams](self)
