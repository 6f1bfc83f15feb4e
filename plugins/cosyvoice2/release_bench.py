"""A contender for ``wishbone bench``: a whole release, part by part and from text to sound.

``reference_bench`` is its counterpart, the public code on the same files; both answer the same
request and are asked the same cases.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

from wishbone.core.bench.contenders import Contender, Job, Times, resident_bytes

CODE_RATE = 25
"""Codes per second."""
SAMPLE_RATE = 24_000
TONE = 0.05
"""Loudness of the excitation in the check of the vocoder."""


@dataclass
class Request:
    """What both sides are asked to speak; the same numbers in every process."""

    text: list[int]
    """Ids of the text."""
    said: list[int]
    """Ids of what the recording says."""
    heard: Tensor
    """[P] codes of the recording."""
    mel: Tensor
    """[2 P, 80] mel of the recording."""
    speaker: Tensor
    """[192]."""
    length: int
    """Codes that are to be drawn, no fewer and no more."""

    @property
    def codes(self) -> Tensor:
        """[N] codes for the parts that come after the language model."""
        return _numbers(3, 0, 6561, self.length).long()

    @property
    def spectrum(self) -> Tensor:
        """[2 N, 80] mel for the vocoder."""
        return _mel(4, 2 * self.length)

    @property
    def ratio(self) -> float:
        """Codes per id of the text: an upper and a lower bound that leave no choice."""
        # beyond the exact quotient, as both sides cut the product to a whole number
        return (self.length + 0.5) / len(self.text)


def request(model: Mapping[str, Any]) -> Request:
    """The request of a suite's ``model``."""
    from wishbone.plugins.cosyvoice2.tokenizer import CosyVoice2Tokenizer

    tokenizer = CosyVoice2Tokenizer(CosyVoice2Tokenizer.Config(release=str(model["release"])))
    (_, text), *more = tokenizer.pieces(model["text"])
    if more:
        raise ValueError("the text is spoken in several pieces; write a shorter one")
    prompt = int(model["prompt"])
    return Request(
        text=list(text),
        said=list(tokenizer.encode(model["transcript"])),
        heard=_numbers(1, 0, 6561, prompt).long(),
        mel=_mel(2, 2 * prompt),
        speaker=torch.cos(1.7 * torch.arange(192)),
        length=int(model["codes"]),
    )


def excitation(samples: int) -> Tensor:
    """[1, 1, S]: a tone, since noise would differ between two programs."""
    return TONE * torch.sin(0.05 * torch.arange(samples)).view(1, 1, -1)


def one_core(job: Job) -> None:
    """Keep this process on as many cores as it has threads.

    The public code runs its language model in a thread of its own, which would be a second core.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])


def timed(work: Callable[[], Any], seconds: float) -> Times:
    """``rtf`` and ``work``: time and processor time per second of sound."""
    begin, worked = perf_counter(), process_time()
    work()
    return {
        "rtf": [(perf_counter() - begin) / seconds],
        "work": [(process_time() - worked) / seconds],
    }


def listened(chunks: Iterator[Any]) -> Times:
    """As ``timed``, and ``first_audio`` and ``first_work``: until the first sound is there."""
    begin, worked, samples = perf_counter(), process_time(), 0
    first: tuple[float, float] | None = None
    for chunk in chunks:
        samples += chunk.shape[-1]
        if samples and first is None:
            first = perf_counter() - begin, process_time() - worked
    if first is None:
        raise RuntimeError("nothing was spoken")
    seconds = samples / SAMPLE_RATE
    return {
        "rtf": [(perf_counter() - begin) / seconds],
        "work": [(process_time() - worked) / seconds],
        "first_audio": [first[0]],
        "first_work": [first[1]],
        "seconds_of_sound": [seconds],
    }


def merged(times: list[Times]) -> Times:
    """Several repetitions as one round."""
    return {name: [value for each in times for value in each[name]] for name in times[0]}


def no_release(job: Job) -> str:
    """Why a release cannot be spoken with, or an empty string."""
    folder = str(job.model.get("release") or "")
    if folder and (Path(folder) / "llm.pt").is_file():
        return ""
    return "no release: give model.release=FOLDER, with llm.pt, flow.pt and hift.pt in it"


@dataclass
class ReleaseConfig:
    """How our side computes."""

    engine: str = "best"
    """As of the contender ``wishbone``."""
    weights: str = "float32"
    """Of the language model while it steps: "float32", "bfloat16" or "int8"."""
    overrides: list[str] = field(default_factory=list)
    """Changes to the system, as ``key=value``."""


class Release(Contender):
    """Cases ``language model``, ``flow``, ``vocoder``, ``whole``, ``stream`` and ``new voice``.

    ``whole`` waits for all codes and solves the flow without a mask, ``stream`` gives sound as soon
    as it can, both from text to samples. ``new voice`` is the stream of a voice's first request,
    where nothing is kept of it yet.
    """

    Config = ReleaseConfig

    @classmethod
    def missing(cls, config: ReleaseConfig, job: Job) -> str:
        """A release is needed."""
        return no_release(job)

    def load(self) -> dict[str, Any]:
        """Build the system, read its weights, choose the engine."""
        from wishbone.core.bench.models import accelerated
        from wishbone.core.config import build, read
        from wishbone.core.voice import Voice

        one_core(self.job)
        before = resident_bytes()
        self.request = asked = request(self.job.model)
        bounds = [f"layout.{name}_code_ratio={asked.ratio}" for name in ("min", "max")]
        words = [f"weights={self.job.model['release']}", *bounds, *self.config.overrides]
        self.system = system = build(read(self.job.model["system"], words), self.job.device)
        model = system.model
        engine = accelerated(model.backbone, self.config.engine, self.config.weights)
        head = accelerated(model.head, self.config.engine, self.config.weights)
        heard = {"codes": asked.heard[:, None], "mel": asked.mel, "speaker": asked.speaker}
        self.voice = Voice(
            text=tuple(asked.said), speech=tuple((int(c),) for c in asked.heard), heard=heard
        )
        return {
            "engine": engine if head == engine else f"{engine}, head {head}",
            "version": f"torch {torch.__version__}",
            "parameters": sum(p.numel() for p in model.parameters()),
            "loaded_bytes": resident_bytes() - before,
        }

    def prepare(self, case: str) -> dict[str, Any]:
        """Nothing beforehand: the first round does not count."""
        return {}

    @torch.inference_mode()
    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Logits, mel or samples for the codes ``ids``, by ``way``."""
        codes, asked, decoder = torch.tensor(what["ids"]), self.request, self.system.decoder
        if what["way"] == "language model":
            # the ids behind the codes end speech, and the other side may not draw them
            return {"logits": self._logits(what["ids"]).flatten()[:6561].tolist()}
        if what["way"] == "flow":
            from wishbone.plugins.cosyvoice2.flow_noise import Noises

            both = torch.cat([asked.heard, codes])
            noise = Noises(decoder.config.mels, 0, upstream=True).under(2 * len(both))
            flow, chunk = decoder.flow, decoder.config.chunk
            made = flow.whole(both, asked.mel, asked.speaker, noise, chunk)
            return {"mel": made[len(asked.mel) :].flatten().tolist()}
        from wishbone.plugins.cosyvoice2.vocoder_layers import Memory

        memory = Memory()
        memory.last = True
        mel = _mel(5, 2 * len(codes)).T[None]
        tone = excitation(mel.shape[2] * decoder.vocoder.config.frame)
        return {"samples": decoder.vocoder.filter(mel, tone, memory).flatten().tolist()}

    def run(self, case: str, count: int) -> Times:
        """Seconds of work per second of sound, and until the first sound where there is one."""
        return merged([self._once(case) for _ in range(count)])

    @torch.inference_mode()
    def _once(self, case: str) -> Times:
        asked, decoder = self.request, self.system.decoder
        seconds = asked.length / CODE_RATE
        if case == "language model":
            return timed(self._draw, seconds)
        if case == "flow":
            from wishbone.plugins.cosyvoice2.flow_noise import Noises
            from wishbone.plugins.cosyvoice2.flow_stream import FlowPrompt, WholeFlow

            prompt = FlowPrompt(asked.heard, asked.mel, asked.speaker)
            whole = WholeFlow(
                decoder.flow, prompt, Noises(decoder.config.mels, 0), decoder.config.steps
            )
            whole.push(asked.codes)
            return timed(whole.finish, seconds)
        if case == "vocoder":
            stream = decoder.vocoder.start(torch.Generator().manual_seed(0))
            mel = asked.spectrum.T
            return timed(lambda: (stream.push(mel), stream.finish()), seconds)
        decoder.config.streaming = case != "whole"
        if case == "new voice":
            decoder.forget()
        return listened(self.system.stream(self.job.model["text"], self.voice))

    def _draw(self) -> None:
        """The codes of the request, and no sound."""
        from wishbone.core.interfaces import Draw, Feed, Stop
        from wishbone.core.sampling import Sampler

        system, state, waiting = self.system, self._first(), []
        turn = system.layout.start(self.voice.prompt(system))
        sampler = Sampler(system.sampling, system.decoder.codes, 0)
        given = False
        while not isinstance(action := turn.next(), Stop):
            if isinstance(action, Feed):
                waiting.extend(action.positions)
            elif isinstance(action, Draw):
                if action.forced is None:
                    hidden, state = system.model.advance(waiting, state)
                    waiting = []
                turn.drawn(sampler.draw(system.model.head, hidden, action))
            elif type(action).__name__ == "Wait":
                turn.end_text() if given else turn.give_text(self.request.text)
                given = True

    def _first(self) -> dict[str, Tensor]:
        model = self.system.model
        return model.backbone.init_state(1, device=model.device, dtype=model.dtype)

    def _logits(self, ids: list[int]) -> Tensor:
        """After the request's prompt, its text and ``ids``, one step for each of them."""
        from wishbone.core.interfaces import Draw, Feed, Layout

        model, turn = self.system.model, self.system.layout.start(self.voice.prompt(self.system))
        positions: list[Any] = []
        given = False
        while not isinstance(action := turn.next(), Draw):
            if isinstance(action, Feed):
                positions.extend(action.positions)
            else:
                turn.end_text() if given else turn.give_text(self.request.text)
                given = True
        hidden, state = model.advance(positions, self._first())
        for each in ids:
            hidden, state = model.advance([(Layout.SPEECH, (each,))], state)
        return model.head(hidden)


def _numbers(seed: int, low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def _mel(seed: int, frames: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 80, generator=draw) - 5.0
