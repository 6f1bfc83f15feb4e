"""The parts of a system, put together on one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from wishbone.core.config.compose import Config
from wishbone.core.contract.codec import Decoder, SpeechTokenizer
from wishbone.core.contract.layout import Layout
from wishbone.core.contract.text import Tokenizer
from wishbone.core.model.sampling import Sampling
from wishbone.core.model.speech_lm import SpeechLM


class Codec(NamedTuple):
    """The two parts that audio passes through."""

    speech_tokenizer: SpeechTokenizer
    decoder: Decoder


@dataclass
class System:
    """The six parts and the settings of a system, on one device."""

    tokenizer: Tokenizer
    speech_tokenizer: SpeechTokenizer
    layout: Layout
    model: SpeechLM
    decoder: Decoder
    sampling: Sampling
    config: Config
    """Resolved, as ``SystemSpec.config``."""
    notes: list[str] = field(default_factory=list)
    """Sentences for people about the weights, such as a part that has none."""
