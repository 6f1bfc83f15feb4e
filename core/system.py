"""The parts of a system, put together on one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from wishbone.core.compose import Config
from wishbone.core.interfaces import Decoder, Layout, SpeechTokenizer, Tokenizer
from wishbone.core.model import SpeechLM
from wishbone.core.sampling import Sampling


class Codec(NamedTuple):
    """The two parts that audio passes through."""

    speech_tokenizer: SpeechTokenizer
    decoder: Decoder


@dataclass
class System:
    """Everything that is needed to speak, on one device."""

    tokenizer: Tokenizer
    speech_tokenizer: SpeechTokenizer
    layout: Layout
    model: SpeechLM
    decoder: Decoder
    sampling: Sampling
    config: Config
    """Resolved, as ``SystemSpec.config``."""
    notes: list[str] = field(default_factory=list)
    """What a person should know of the weights, such as a part that has none."""
