"""Codecs of transformers: how each family is called, and what of it each half needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.errors import ConfigError

CAUSAL, LAYERS, WINDOW, COMPLETE = "causal", "layers", "window", "complete"
"""Ways to stream: mimi's caches; layer by layer; frames around new ones again; all at the end."""


@dataclass(frozen=True)
class CodecFamily:
    """One kind of codec. A model of it encodes audio [S] to codes [T, Q], and decodes them."""

    encodes: Sequence[str]
    """Its parts that only encode, dropped by the half that decodes."""
    decodes: Sequence[str]
    """Its parts that only decode, dropped by the half that encodes."""
    streams: str
    encode: Callable[[Any, Tensor], Tensor]
    decode: Callable[[Any, Tensor], Tensor]
    about: str
    """For people."""
    convolutions: str = ""
    """The part whose convolutions bound what a frame depends on, where it streams by them."""
    refuse: Callable[[Any], str] = lambda inner: ""
    """The reason against a configuration, "" for none."""


def sampling_rates(inner: Any) -> tuple[int, int]:
    """Samples per second that go in and come out."""
    for name in ("sampling_rate", "sample_rate"):
        rate = getattr(inner, name, None)
        if isinstance(rate, int):
            return rate, rate
    return int(inner.input_sampling_rate), int(inner.output_sampling_rate)


def hops(inner: Any) -> tuple[int, int]:
    """Samples of a code frame that go in and come out."""
    into, out = sampling_rates(inner)
    if inner.model_type == "mimi":
        hop = round(into / inner.frame_rate)
        return hop, hop
    hop = int(inner.hop_length)
    return hop * into // out, hop


def codebooks(inner: Any) -> int:
    """Codebooks of a frame."""
    return int(getattr(inner, "num_quantizers", 0) or getattr(inner, "n_codebooks", 0) or 1)


def levels(inner: Any) -> tuple[int, ...]:
    """Levels of the digits of a code, () where it has none."""
    return tuple(int(n) for n in getattr(inner, "quantization_levels", ()))


def size(inner: Any) -> int:
    """Codes of a codebook."""
    return math.prod(levels(inner)) if levels(inner) else int(inner.codebook_size)


def _filled(model: Any, audio: Tensor) -> Tensor:
    """audio [S] -> [1, 1, S'] with zeros behind, so that the last frame is complete."""
    hop, _ = hops(model.config)
    samples = max(1, math.ceil(len(audio) / hop)) * hop
    return F.pad(audio, (0, samples - len(audio)))[None, None]  # [1, 1, S']


def _every(model: Any, audio: Tensor) -> Tensor:
    """Encode with all codebooks, for families that do so unasked."""
    return model.encode(_filled(model, audio)).audio_codes[0].T  # [T, Q]


def _by_bandwidth(model: Any, audio: Tensor) -> Tensor:
    """Encode at the highest bandwidth, which has all codebooks."""
    highest = model.config.target_bandwidths[-1]
    codes = model.encode(_filled(model, audio), bandwidth=highest).audio_codes
    return (codes[0, 0] if codes.ndim == 4 else codes[0]).T  # [T, Q]


@lru_cache(maxsize=4)
def _features(family: str, rate: int, hop: int) -> Any:
    """Maker of mel spectrograms for the semantic half of a family."""
    from transformers import NeuCodecFeatureExtractor, Xcodec2FeatureExtractor

    cls = NeuCodecFeatureExtractor if family == "neucodec" else Xcodec2FeatureExtractor
    return cls(sampling_rate=rate, hop_length=hop)


def _with_features(model: Any, audio: Tensor) -> Tensor:
    """Encode sound and its mel spectrogram, which the family's own extractor makes."""
    inner = model.config
    extract = _features(inner.model_type, sampling_rates(inner)[0], hops(inner)[0])
    rate = sampling_rates(inner)[0]
    inputs = extract(audio=audio.cpu().numpy(), sampling_rate=rate, return_tensors="pt")
    inputs = {name: tensor.to(audio.device) for name, tensor in inputs.items()}
    return model.encode(**inputs).audio_codes[0].T.long()  # [T, 1]


def _decode(model: Any, codes: Tensor) -> Tensor:
    """codes [T, Q] -> samples [S]."""
    return model.decode(audio_codes=codes.T[None]).audio_values.flatten()


def _decode_encodec(model: Any, codes: Tensor) -> Tensor:
    """codes [T, Q] -> samples [S], of a codec that cuts nothing into chunks."""
    return model.decode(codes.T[None, None], [None]).audio_values.flatten()


def _refuse_encodec(inner: Any) -> str:
    """Only the form of 24 kHz: what the other does to a chunk stands in no code."""
    if inner.audio_channels != 1 or inner.normalize or inner.chunk_length_s is not None:
        return "it scales chunks of sound by numbers that are no codes, as encodec_48khz does"
    if not inner.use_causal_conv or inner.norm_type != "weight_norm" or inner.trim_right_ratio != 1:
        return "it is not causal"
    return ""


_XCODEC = CodecFamily(
    ("acoustic_encoder", "encoder_semantic", "semantic_model", "fc", "fc1", "decoder_semantic"),
    ("acoustic_decoder", "fc1", "fc2", "decoder_semantic"),
    WINDOW,
    _by_bandwidth,
    _decode,
    "semantic and acoustic, several codebooks; looks ahead",
    convolutions="acoustic_decoder",
)
_XCODEC2 = CodecFamily(
    ("semantic_encoder", "semantic_adapter", "acoustic_encoder", "fc_encoder"),
    ("acoustic_decoder",),
    COMPLETE,
    _with_features,
    _decode,
    "semantic and acoustic, one codebook of digits; needs the last code before the first sample",
)

CODECS = {
    "mimi": CodecFamily(
        ("encoder",), ("decoder",), CAUSAL, _every, _decode, "causal, several codebooks; streams",
        convolutions="decoder.decoder_seanet",
    ),
    "dac": CodecFamily(
        ("encoder",), ("decoder",), WINDOW, _every, _decode, "several codebooks; looks ahead",
        convolutions="decoder",
    ),
    "encodec": CodecFamily(
        ("encoder",), ("decoder",), LAYERS, _by_bandwidth, _decode_encodec,
        "causal with an LSTM, several codebooks; streams, but the first frames wait for each other",
        refuse=_refuse_encodec,
    ),
    "xcodec": _XCODEC,
    "higgs_audio_v2_tokenizer": _XCODEC,
    "neucodec": _XCODEC2,
    "xcodec2": _XCODEC2,
    "wavtokenizer": CodecFamily(
        ("encoder_model.encoder",), ("backbone", "head"), COMPLETE, _every, _decode,
        "one codebook; needs the last code before the first sample",
    ),
}  # fmt: skip
"""Codecs that give the codes and samples of transformers, by their names there."""


def check_config(family: str, inner: Any) -> None:
    """Raise ``ConfigError`` for a configuration that cannot be a codec here."""
    if reason := CODECS[family].refuse(inner):
        raise ConfigError(
            f"This '{family}' cannot be a codec: {reason}.",
            "config of a codec 'hf'",
            f"Take another release, or another of {', '.join(CODECS)}.",
        )


def drop(model: Any, parts: Sequence[str]) -> None:
    """Remove parts of a model that one half does not need."""
    for path in parts:
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner) if owner else model, name, None)


def fill_codebooks(model: torch.nn.Module) -> None:
    """Draw codebooks that are zeros until a training, or a release, has filled them."""
    for name, table in model.named_buffers():
        if name.endswith((".embed_sum", ".embed")):
            torch.nn.init.normal_(table)
