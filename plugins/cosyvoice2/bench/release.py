"""A release from text to sound, and the cost of its parts; ``public_code`` is its counterpart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wishbone.core.bench.built_in.models import accelerated_model
from wishbone.core.contract.extensions.contender import Job
from wishbone.core.contract.layout import Layout
from wishbone.core.contract.session import Draw, Feed
from wishbone.core.speak.speaker import build
from wishbone.core.speak.voice import Voice
from wishbone.core.system.spec import read
from wishbone.plugins.cosyvoice2.bench.speaking import Speaking, excitation, no_release
from wishbone.plugins.cosyvoice2.flow.noise import Noises
from wishbone.plugins.cosyvoice2.vocoder.layers import Memory


@dataclass
class ReleaseConfig:
    """Engine, precision and overrides of our side."""

    engine: str = "best"
    """Engine of the language model, as for the contender ``wishbone``."""
    weights: str = "float32"
    """Precision of the language model's steps: "float32", "bfloat16" or "int8"."""
    overrides: list[str] = field(default_factory=list)
    """Changes to the system, as ``key=value``."""


class Release(Speaking):
    """Wishbone's side."""

    Config = ReleaseConfig

    @classmethod
    def missing(cls, config: ReleaseConfig, job: Job) -> str:
        """Require a release."""
        return no_release(job)

    def build(self) -> dict[str, Any]:
        """Build the system, read its weights, choose the engine."""
        request = self.request
        bounds = [f"layout.{name}_code_ratio={request.ratio}" for name in ("min", "max")]
        words = [f"weights={self.job.model['release']}", *bounds, *self.config.overrides]
        self.system = system = build(read(self.job.model["system"], words), self.job.device)
        decoder = system.decoder
        facts = accelerated_model(system.model, self.config.engine, self.config.weights)
        conditioning = {
            "codes": request.codes[:, None],
            "mel": request.mel,
            "speaker": request.speaker,
        }
        codes = tuple((int(code),) for code in request.codes)
        self.voice = Voice(text=tuple(request.transcript), speech=codes, heard=conditioning)
        for part in ("encode", "solve"):
            self.shares.watch("flow", decoder.flow, part)
        self.shares.watch("vocoder", decoder.vocoder, "advance")
        return facts

    def speak(self, case: str) -> Iterator[Tensor]:
        """Speak the request -> its samples [S], chunk by chunk; a new voice is forgotten first."""
        decoder = self.system.decoder
        decoder.config.streaming = case != "whole"
        if case == "new voice":
            decoder.forget()
        return self.system.stream(self.job.model["text"], self.voice)

    def mel(self, codes: Tensor) -> Tensor:
        """codes [N] -> mel [2 N, 80] behind the request's recording."""
        request, decoder = self.request, self.system.decoder
        both = torch.cat([request.codes, codes])  # [P + N]
        noise = Noises(decoder.config.mels, 0, upstream=True).under(
            2 * len(both)
        )  # [2 (P + N), 80]
        mel = decoder.flow.solve_all(
            both, request.mel, request.speaker, noise, decoder.config.chunk
        )
        return mel[len(request.mel) :]  # [2 N, 80]

    def samples(self, mel: Tensor) -> Tensor:
        """mel [1, 80, n] -> samples [1, S] for a tone as the excitation."""
        memory, vocoder = Memory(), self.system.decoder.vocoder
        memory.last = True
        return vocoder.filter(mel, excitation(mel.shape[2] * vocoder.config.frame), memory)

    def logits(self, codes: Tensor) -> Tensor:
        """codes [N] -> logits [X] after the request's prompt, its text and these, one by one."""
        model, session = self.system.model, self.system.layout.start(self.voice.prompt(self.system))
        positions: list[Any] = []
        text, answer = iter([self.request.text]), None
        while not isinstance(action := session.next(answer), Draw):
            answer = None
            if isinstance(action, Feed):
                positions.extend(action.positions)
            else:
                answer = next(text, None)
        state = model.backbone.init_state(1, device=model.device, dtype=model.dtype)
        hidden, state = model.advance(positions, state)  # hidden [1, D]
        for code in codes.tolist():
            hidden, state = model.advance([(Layout.SPEECH, (code,))], state)
        return model.head(hidden).flatten()  # [X]
