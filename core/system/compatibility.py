"""Checks that the parts of a system fit each other: every fact between two slots is here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from wishbone.core.config.compose import Config
from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.codec import Decoder, SpeechTokenizer
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import Layout
from wishbone.core.contract.text import Tokenizer


@dataclass
class Parts:
    """The six parts of a system, not yet put together."""

    tokenizer: Tokenizer
    speech_tokenizer: SpeechTokenizer
    layout: Layout
    backbone: Backbone
    head: Head
    decoder: Decoder


def check_fit(parts: Parts, config: Mapping[str, Any] | None = None) -> None:
    """Check the facts between slots; raises ``ConfigError`` with a sentence for each that fails."""
    problems = [*_check_codes(parts), *_check_tables(parts), *_check_head(parts)]
    if problems:
        place = config.place("") if isinstance(config, Config) else "the configuration"
        raise ConfigError(
            f"The parts do not fit: {'; '.join(problems)}.", place, "Change one slot of each pair."
        )


def _check_codes(parts: Parts) -> Iterator[str]:
    """The speech tokenizer against the decoder, and the decoder against itself."""
    tokenizer_codes, codes = parts.speech_tokenizer.codes, parts.decoder.codes
    for name in ("size", "codebooks", "rate", "levels"):
        left, right = getattr(tokenizer_codes, name), getattr(codes, name)
        if left != right:
            yield f"the speech tokenizer's codes have {name} {left}, the decoder's {right}"
    if codes.levels and math.prod(codes.levels) != codes.size:
        yield (
            f"the FSQ levels {list(codes.levels)} make {math.prod(codes.levels)} codes,"
            f" the codebook has {codes.size}"
        )
    samples = parts.decoder.sample_rate / codes.rate
    if samples != int(samples):
        yield (
            f"{parts.decoder.sample_rate} samples per second at {codes.rate} codes per second"
            f" are {samples:.3f} samples per code, not a whole number"
        )
    stated = parts.decoder.samples_per_frame
    if stated is not None and stated * codes.rate != parts.decoder.sample_rate:
        yield (
            f"{codes.rate} codes per second of {stated} samples each"
            f" are not {parts.decoder.sample_rate} samples per second"
        )


def _check_tables(parts: Parts) -> Iterator[str]:
    """The layout's tables against tokenizer and codec."""
    tables = dict(parts.layout.tables)
    speech_rows = parts.decoder.codes.size + parts.layout.extra
    if next(iter(tables), None) != "speech":
        yield "the layout's first table is not 'speech'"
    elif tables["speech"] != speech_rows:
        yield (
            f"the layout's speech table has {tables['speech']} rows; the codec's"
            f" {parts.decoder.codes.size} codes and {parts.layout.extra} of its own need"
            f" {speech_rows}"
        )
    if "text" in tables and tables["text"] < parts.tokenizer.space.vocabulary:
        yield (
            f"the layout's text table has {tables['text']} rows, the tokenizer"
            f" {parts.tokenizer.space.vocabulary} ids"
        )


def _check_head(parts: Parts) -> Iterator[str]:
    """The head against backbone and codec, by sending shapes through it."""
    codes, width = parts.decoder.codes, parts.backbone.width
    parameter = next(parts.head.parameters())
    with torch.device(parameter.device):
        ids = torch.zeros(1, codes.codebooks, dtype=torch.long)  # [1, Q]
        vector = parts.head.embed(ids)  # [1, D]
        logits = parts.head(torch.zeros(1, width, dtype=parameter.dtype))  # [1, Q, X]
    if vector.shape[-1] != width:
        yield f"the head embeds codes to width {vector.shape[-1]}, the backbone has {width}"
    if logits.shape[-2] != codes.codebooks:
        yield f"the head predicts {logits.shape[-2]} codebooks, the codec has {codes.codebooks}"
    if logits.shape[-1] != codes.size + parts.layout.extra:
        yield (
            f"the head predicts {logits.shape[-1]} ids; the codec and the layout have"
            f" {codes.size} + {parts.layout.extra}"
        )
