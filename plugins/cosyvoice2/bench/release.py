"""A release from text to sound, and what its parts cost; ``public_code`` is its counterpart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.contender import Job
from wishbone.plugins.cosyvoice2.bench.speaking import Speaking, excitation, no_release


@dataclass
class ReleaseConfig:
    """How our side computes."""

    engine: str = "best"
    """As of the contender ``wishbone``."""
    weights: str = "float32"
    """Of the language model while it steps: "float32", "bfloat16" or "int8"."""
    overrides: list[str] = field(default_factory=list)
    """Changes to the system, as ``key=value``."""


class Release(Speaking):
    """Our side."""

    Config = ReleaseConfig

    @classmethod
    def missing(cls, config: ReleaseConfig, job: Job) -> str:
        """A release is needed."""
        return no_release(job)

    def build(self) -> dict[str, Any]:
        """Build the system, read its weights, choose the engine."""
        from wishbone.core.bench.models import accelerated_model
        from wishbone.core.speak.speaker import build
        from wishbone.core.speak.voice import Voice
        from wishbone.core.system.spec import read

        asked = self.request
        bounds = [f"layout.{name}_code_ratio={asked.ratio}" for name in ("min", "max")]
        words = [f"weights={self.job.model['release']}", *bounds, *self.config.overrides]
        self.system = system = build(read(self.job.model["system"], words), self.job.device)
        decoder = system.decoder
        facts = accelerated_model(system.model, self.config.engine, self.config.weights)
        conditioning = {"codes": asked.codes[:, None], "mel": asked.mel, "speaker": asked.speaker}
        codes = tuple((int(code),) for code in asked.codes)
        self.voice = Voice(text=tuple(asked.transcript), speech=codes, heard=conditioning)
        for part in ("encode", "solve"):
            self.shares.watch("flow", decoder.flow, part)
        self.shares.watch("vocoder", decoder.vocoder, "advance")
        return facts

    def speak(self, case: str) -> Iterator[Tensor]:
        """The request's samples; a new voice is forgotten first."""
        decoder = self.system.decoder
        decoder.config.streaming = case != "whole"
        if case == "new voice":
            decoder.forget()
        return self.system.stream(self.job.model["text"], self.voice)

    def mel(self, codes: Tensor) -> Tensor:
        """codes [N] -> [2 N, 80] behind the request's recording."""
        from wishbone.plugins.cosyvoice2.flow.noise import Noises

        asked, decoder = self.request, self.system.decoder
        both = torch.cat([asked.codes, codes])
        noise = Noises(decoder.config.mels, 0, upstream=True).under(2 * len(both))
        mel = decoder.flow.solve_all(both, asked.mel, asked.speaker, noise, decoder.config.chunk)
        return mel[len(asked.mel) :]

    def samples(self, mel: Tensor) -> Tensor:
        """mel [1, 80, n] -> samples for a tone as the excitation."""
        from wishbone.plugins.cosyvoice2.vocoder.layers import Memory

        memory, vocoder = Memory(), self.system.decoder.vocoder
        memory.last = True
        return vocoder.filter(mel, excitation(mel.shape[2] * vocoder.config.frame), memory)

    def logits(self, codes: Tensor) -> Tensor:
        """codes [N] -> [X] after the request's prompt, its text and them, one step for each."""
        from wishbone.core.contract.layout import Layout
        from wishbone.core.contract.session import Draw, Feed

        model, session = self.system.model, self.system.layout.start(self.voice.prompt(self.system))
        positions: list[Any] = []
        given = False
        while not isinstance(action := session.next(), Draw):
            if isinstance(action, Feed):
                positions.extend(action.positions)
            else:
                session.end_text() if given else session.give_text(self.request.text)
                given = True
        state = model.backbone.init_state(1, device=model.device, dtype=model.dtype)
        hidden, state = model.advance(positions, state)
        for code in codes.tolist():
            hidden, state = model.advance([(Layout.SPEECH, (code,))], state)
        return model.head(hidden).flatten()
