"""A contender for ``wishbone bench``: a whole release from text to sound, and what its parts cost.

``reference_bench`` is its counterpart, the public code on the same files; both answer the same
request and are asked the same cases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

import torch
from torch import Tensor

from wishbone.core.bench.contenders import Contender, Job, Times, resident_bytes

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
        mel=random_mel(2, 2 * prompt),
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


class Shares:
    """Processor time spent in parts of a system while it speaks."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}

    def watch(self, name: str, owner: Any, method: str) -> None:
        """Count the time of ``owner.method`` as that of ``name``."""
        inner = getattr(owner, method)
        self._spent[name] = 0.0

        def watched(*words: Any, **named: Any) -> Any:
            # of this thread alone: the public code has another one beside it
            begin = thread_time()
            try:
                return inner(*words, **named)
            finally:
                self._spent[name] += thread_time() - begin

        setattr(owner, method, watched)

    def listen(self, chunks: Iterator[Any]) -> Times:
        """Drain ``chunks`` of samples -> seconds per second of sound, and until the first.

        ``rtf`` and ``first_audio`` by the clock; ``work`` and ``first_work`` of the processor,
        and of it ``flow``, ``vocoder`` and ``language_model``, which is all that is left.
        """
        self._spent = dict.fromkeys(self._spent, 0.0)
        begin, worked, samples = perf_counter(), process_time(), 0
        first: tuple[float, float] | None = None
        for chunk in chunks:
            samples += chunk.shape[-1]
            if samples and first is None:
                first = perf_counter() - begin, process_time() - worked
        if first is None:
            raise RuntimeError("nothing was spoken")
        seconds, work = samples / SAMPLE_RATE, process_time() - worked
        parts = {name: [spent / seconds] for name, spent in self._spent.items()}
        return {
            "rtf": [(perf_counter() - begin) / seconds],
            "work": [work / seconds],
            "first_audio": [first[0]],
            "first_work": [first[1]],
            "language_model": [(work - sum(self._spent.values())) / seconds],
            **parts,
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
    """Cases ``whole``, ``stream`` and ``new voice``.

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
        self.shares = Shares()
        decoder = system.decoder
        for part in ("encode", "solve"):
            self.shares.watch("flow", decoder.flow, part)
        self.shares.watch("vocoder", decoder.vocoder, "advance")
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
        mel = random_mel(5, 2 * len(codes)).T[None]
        tone = excitation(mel.shape[2] * decoder.vocoder.config.frame)
        return {"samples": decoder.vocoder.filter(mel, tone, memory).flatten().tolist()}

    def run(self, case: str, count: int) -> Times:
        """Seconds of work per second of sound, and until the first sound where there is one."""
        return merged([self._once(case) for _ in range(count)])

    def _once(self, case: str) -> Times:
        decoder = self.system.decoder
        decoder.config.streaming = case != "whole"
        if case == "new voice":
            decoder.forget()
        return self.shares.listen(self.system.stream(self.job.model["text"], self.voice))

    def _first(self) -> dict[str, Tensor]:
        model = self.system.model
        return model.backbone.init_state(1, device=model.device, dtype=model.dtype)

    def _logits(self, ids: list[int]) -> Tensor:
        """After the request's prompt, its text and ``ids``, one step for each of them."""
        from wishbone.core.interfaces import Layout
        from wishbone.core.session import Draw, Feed

        model, session = self.system.model, self.system.layout.start(self.voice.prompt(self.system))
        positions: list[Any] = []
        given = False
        while not isinstance(action := session.next(), Draw):
            if isinstance(action, Feed):
                positions.extend(action.positions)
            else:
                session.end_text() if given else session.give_text(self.request.text)
                given = True
        hidden, state = model.advance(positions, self._first())
        for each in ids:
            hidden, state = model.advance([(Layout.SPEECH, (each,))], state)
        return model.head(hidden)


def _numbers(seed: int, low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def random_mel(seed: int, frames: int) -> Tensor:
    """[n, 80], the same wherever it is drawn."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 80, generator=draw) - 5.0
