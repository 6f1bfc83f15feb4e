"""Codecs of transformers: ``mimi`` (causal, streams) and ``dac`` (looks ahead a few frames).

A stream keeps what the next samples depend on. For mimi that is the cache of the transformer in its
decoder and as many of the frames before as its convolutions see; transformers itself caches the
encoder alone. For dac the codes around the new ones are decoded again. Both give the samples that
one call gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.backbone import State
from wishbone.core.contract.codec import CodeSpace, Decoder, DecoderStream, SpeechTokenizer
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import OneOf, OptionalSize
from wishbone.core.system.loading import load_tensors
from wishbone.plugins.hf import library

TINY = {
    "sampling_rate": 3200, "upsampling_ratios": [4, 4], "frame_rate": 100.0, "num_filters": 4,
    "hidden_size": 32, "codebook_size": 64, "codebook_dim": 16, "num_quantizers": 3,
    "vector_quantization_hidden_dimension": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48, "sliding_window": 6,
    "upsample_groups": 32, "num_semantic_quantizers": 1,
}  # fmt: skip
"""A mimi for tests."""


@dataclass
class HFCodecConfig:
    """A codec of transformers, by its values or the folder of a release."""

    model: Annotated[str, OneOf("mimi", "dac")] = "mimi"
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
            if family not in ("mimi", "dac"):
                raise ValueError(f"'{family}' is none of the codecs mimi and dac")
            self.model, self.config = family, released | dict(self.config)


def _config(config: HFCodecConfig) -> Any:
    """Make the configuration for transformers. Raises ``ConfigError``."""
    cls = library.CONFIG_MAPPING[config.model]
    try:
        return cls(**config.config)
    # transformers checks values with classes of errors of several packages
    except Exception as error:
        raise ConfigError(
            f"A '{config.model}' of transformers refuses these values: {error}",
            "config of a codec 'hf'",
            f"The fields are those of {cls.__name__} in transformers {library.VERSION}.",
        ) from error


def _space(config: HFCodecConfig, inner: Any) -> CodeSpace:
    """Facts of the codes. Raises ``ConfigError`` for more codebooks than there are."""
    every = int(getattr(inner, "num_quantizers", 0) or getattr(inner, "n_codebooks", 0))
    books = config.codebooks or every
    if books > every:
        raise ConfigError(
            f"This codec has {every} codebooks, not {books}.",
            "codebooks of a codec 'hf'",
            f"Write at most {every}.",
        )
    return CodeSpace(int(inner.codebook_size), inner.sampling_rate / _hop(inner), books)


def _hop(inner: Any) -> int:
    """Samples of a frame."""
    if inner.model_type == "dac":
        return int(inner.hop_length)
    return round(inner.sampling_rate / inner.frame_rate)


class _Half(nn.Module):
    """What both halves of a codec share: the model, without the other half."""

    def _build(self, config: HFCodecConfig, without: str) -> Any:
        inner = _config(config)
        with library.kernels_hidden():
            self.model = library.AutoModel.from_config(inner)
        setattr(self.model, without, None)
        for module in self.model.modules():
            if hasattr(module, "embed_sum"):
                # mimi's codebooks are zeros until a training has filled them
                nn.init.normal_(module.embed_sum)
        self.config, self.inner, self.hop = config, inner, _hop(inner)
        return inner

    def load_release(self, folder: Path) -> None:
        """Fill this half with a release's weights. Raises ``CheckpointError``."""
        tensors = library.read_model(folder).state_dict()
        names = self.model.state_dict()
        half = {f"model.{name}": t for name, t in tensors.items() if name in names}
        load_tensors(self, half, str(folder))


class HFSpeechTokenizer(_Half, SpeechTokenizer):
    """The encoder and the quantiser of a codec."""

    Config = HFCodecConfig

    def __init__(self, config: HFCodecConfig) -> None:
        super().__init__()
        inner = self._build(config, "decoder")
        self.codes, self.sample_rate = _space(config, inner), int(inner.sampling_rate)

    @classmethod
    def small_config(cls) -> HFCodecConfig:
        """A tiny mimi."""
        return HFCodecConfig(config=dict(TINY))

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """audio [S] -> codes [T, Q]; zeros fill the last frame."""
        samples = max(1, math.ceil(len(audio) / self.hop)) * self.hop
        padded = F.pad(audio, (0, samples - len(audio)))[None, None]  # [1, 1, S]
        if self.config.model == "dac":
            codes = self.model.encode(padded, n_quantizers=self.codes.codebooks).audio_codes
        else:
            codes = self.model.encode(padded, num_quantizers=self.codes.codebooks).audio_codes
        return codes[0].T.contiguous()  # [T, Q]


class HFDecoder(_Half, Decoder):
    """The quantiser's tables and the decoder of a codec."""

    Config = HFCodecConfig

    def __init__(self, config: HFCodecConfig) -> None:
        super().__init__()
        inner = self._build(config, "encoder")
        self.codes, self.sample_rate = _space(config, inner), int(inner.sampling_rate)
        self.samples_per_frame = self.hop
        mimi = config.model == "mimi"
        convolutions = self.model.decoder.decoder_seanet if mimi else self.model.decoder
        self.context = frames_before(convolutions)
        self.lookahead = 0 if mimi else self.context

    @classmethod
    def small_config(cls) -> HFCodecConfig:
        """A tiny mimi."""
        return HFCodecConfig(config=dict(TINY))

    def start(
        self, *, seed: int = 0, speaker: Tensor | None = None, prompt: State | None = None
    ) -> DecoderStream:
        """Begin an utterance; nothing is drawn by chance."""
        return MimiStream(self) if self.config.model == "mimi" else WindowStream(self)


def frames_before(layers: nn.Module) -> int:
    """Bound how many frames of input a frame of output depends on, to each side.

    Every convolution of kernel K and dilation d sees (K - 1) d steps of its own rate; sums over
    all of them, which counts those of branches twice.
    """
    rate, total = 1.0, 0.0
    for module in layers.modules():
        if isinstance(module, nn.ConvTranspose1d):
            total += (module.kernel_size[0] - 1) / (rate * module.stride[0])
            rate *= module.stride[0]
        elif isinstance(module, nn.Conv1d):
            total += (module.kernel_size[0] - 1) * module.dilation[0] / rate
    return math.ceil(total)


class MimiStream(DecoderStream):
    """A causal decoder: all samples of a frame at once."""

    def __init__(self, decoder: HFDecoder) -> None:
        self.decoder = decoder
        self._latent: Tensor | None = None  # [1, C, 1]
        self._before: Tensor | None = None  # [1, C, N]
        self._cache = DynamicCache(config=decoder.model.decoder.config)

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """codes [T, Q] -> samples [T hop]."""
        decoder, half = self.decoder, self.decoder.model.decoder
        if not len(codes):
            return torch.zeros(0, device=codes.device)
        latents = decoder.model.quantizer.decode(codes.T[None])  # [1, C, T]
        stride = 1
        hidden = latents  # [1, C, T]
        if half.upsample is not None:
            stride = half.upsample.conv.stride[0]
            with_past = latents if self._latent is None else torch.cat((self._latent, latents), 2)
            hidden = half.upsample(with_past)[..., -stride * len(codes) :]  # [1, C, T stride]
            self._latent = latents[..., -1:]
        y = half.decoder_transformer(
            hidden.transpose(1, 2), cache=self._cache, use_cache=True
        ).last_hidden_state.transpose(1, 2)  # [1, C, T stride]
        y = y if self._before is None else torch.cat((self._before, y), 2)
        self._before = y[..., -decoder.context :]
        return half.decoder_seanet(y)[0, 0, -decoder.hop * len(codes) :].clamp(-1, 1)  # [T hop]

    def finish(self) -> Tensor:
        """Nothing is held back."""
        return torch.zeros(0, device=next(self.decoder.parameters()).device)


class WindowStream(DecoderStream):
    """A decoder that sees both sides: new frames are decoded between those around them."""

    def __init__(self, decoder: HFDecoder) -> None:
        self.decoder = decoder
        self._codes: Tensor | None = None  # [N, Q]
        self._done = 0
        """Frames of ``_codes`` whose samples were given."""

    def push(self, codes: Tensor) -> Tensor:
        """codes [T, Q] -> samples of the frames that have seen as many behind them."""
        self._codes = codes if self._codes is None else torch.cat((self._codes, codes))
        return self._until(len(self._codes) - self.decoder.lookahead)

    def finish(self) -> Tensor:
        """Samples of all that is left."""
        if self._codes is None:
            return torch.zeros(0, device=next(self.decoder.parameters()).device)
        return self._until(len(self._codes))

    @torch.no_grad()
    def _until(self, end: int) -> Tensor:
        """Samples of the frames from the first that is not done up to ``end``."""
        assert self._codes is not None
        decoder = self.decoder
        if end <= self._done:
            return torch.zeros(0, device=self._codes.device)
        first = max(0, self._done - decoder.context)
        window = self._codes[first:]  # [N, Q]
        audio = decoder.model.decode(audio_codes=window.T[None]).audio_values.flatten()  # [S]
        # transposed convolutions of an odd stride make a few samples less at the very end
        audio = F.pad(audio, (0, max(0, len(window) * decoder.hop - len(audio))))
        samples = audio[(self._done - first) * decoder.hop : (end - first) * decoder.hop]
        drop = max(0, end - decoder.context)
        self._codes, self._done = self._codes[drop:], end - drop
        return samples.clamp(-1, 1)  # [S]
