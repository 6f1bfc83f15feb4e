"""A system that speaks: ``wishbone.load`` returns one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.audio.files import Audio
from wishbone.core.config.compose import compose
from wishbone.core.contract.engines import parse_engine
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.utterance import Text, Utterance
from wishbone.core.speak.voice import Voice
from wishbone.core.system.build import build_system
from wishbone.core.system.spec import SystemSpec, parse
from wishbone.core.system.system import System


@dataclass
class Speaker(System):
    """A system with two ways to speak: all at once, and in chunks."""

    def say(
        self,
        text: Text,
        voice: Voice | str | None = None,
        seed: int = 0,
        instruct: str = "",
        guidance: float | None = None,
        record: list[Utterance] | None = None,
    ) -> Audio:
        """Speak all of ``text``; the arguments are those of ``wishbone.core.speak.text_to_speech``.

        ``record`` receives an ``Utterance`` for each piece, whose ``words`` have their times.
        """
        return text_to_speech.say(self, text, voice, seed, record, instruct, guidance)

    def stream(
        self,
        text: Text,
        voice: Voice | str | None = None,
        seed: int = 0,
        instruct: str = "",
        guidance: float | None = None,
        record: list[Utterance] | None = None,
    ) -> Iterator[Tensor]:
        """Speak in chunks [S], each as soon as it is final; the same samples as ``say``."""
        return text_to_speech.stream(self, text, voice, seed, record, instruct, guidance)


def load(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    engine: str = "auto",
) -> Speaker:
    """Read a configuration and ``build`` it, with decoding steps by ``engine``.

    ``overrides`` are ``"backbone.width=256"``. ``engine`` is a name of
    ``wishbone.core.contract.engines``, or NAME:WEIGHTS such as "native:int8". "auto" is the fastest
    that this machine can have; the first use builds C++. "eager" is plain PyTorch, for the same
    samples from the same seed on every machine. Raises ``UsageError`` for an unknown name,
    ``CapabilityError`` for an engine that cannot be had, and the errors of ``spec.read`` and
    ``build_system``.
    """
    choice = parse_engine(engine)
    speaker = build(parse(compose(name_or_path, overrides)), device)
    speaker.model.accelerate(*choice)
    return speaker


def build(config: Mapping[str, Any] | SystemSpec, device: str = "cpu") -> Speaker:
    """Build a configuration or its ``SystemSpec`` with ``build_system``, ready to speak."""
    return Speaker(**vars(build_system(config, device)))
