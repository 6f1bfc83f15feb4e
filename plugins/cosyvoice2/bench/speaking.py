"""What both sides of the suite ``cosyvoice2`` share: the request, the clocks, the comparison."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

import torch
from torch import Tensor

from wishbone.core.bench.contenders import resident_bytes
from wishbone.core.contract.contender import Contender, Job, Times

SAMPLE_RATE = 24_000
CODES = 6561
"""Codes of speech; the ids behind them end it."""
TONE = 0.05
"""Loudness of the excitation in the check of the vocoder."""


@dataclass
class Request:
    """What both sides are asked to speak; the same numbers in every process."""

    text: list[int]
    """Ids of the text."""
    transcript: list[int]
    """Ids of what the recording says."""
    codes: Tensor
    """[P] of the recording."""
    mel: Tensor
    """[2 P, 80] of the recording."""
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
    prompt, draw = int(model["prompt"]), torch.Generator().manual_seed(1)
    return Request(
        text=list(text),
        transcript=list(tokenizer.encode(model["transcript"])),
        codes=torch.randint(CODES, (prompt,), generator=draw),
        mel=random_mel(2, 2 * prompt),
        speaker=torch.cos(1.7 * torch.arange(192)),
        length=int(model["codes"]),
    )


def random_mel(seed: int, frames: int) -> Tensor:
    """[n, 80], the same wherever it is drawn."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 80, generator=draw) - 5.0


def excitation(samples: int) -> Tensor:
    """[1, 1, S]: a tone, since noise would differ between two programs."""
    return TONE * torch.sin(0.05 * torch.arange(samples)).view(1, 1, -1)


def no_release(job: Job) -> str:
    """Why a release cannot be spoken with, or an empty string."""
    folder = str(job.model.get("release") or "")
    if folder and (Path(folder) / "llm.pt").is_file():
        return ""
    return "no release: give model.release=FOLDER, with llm.pt, flow.pt and hift.pt in it"


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


class Speaking(Contender):
    """Cases ``whole``, ``stream`` and ``new voice``.

    ``whole`` waits for all codes and solves the flow without a mask, ``stream`` gives sound as soon
    as it can, both from text to samples. ``new voice`` is the stream of a voice's first request,
    where nothing is kept of it yet. Nothing is prepared: the first round does not count.
    """

    def load(self) -> dict[str, Any]:
        """Build the side on one core, with what the suite's request asks for."""
        one_core(self.job)
        before = resident_bytes()
        self.request, self.shares = request(self.job.model), Shares()
        return {**self.build(), "loaded_bytes": resident_bytes() - before}

    @torch.inference_mode()
    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Logits, mel or samples for the codes ``ids``, by ``way``."""
        codes = torch.tensor(what["ids"])
        if what["way"] == "language model":
            # the public code may not draw the ids behind the codes
            return {"logits": self.logits(codes)[:CODES].tolist()}
        if what["way"] == "flow":
            return {"mel": self.mel(codes).flatten().tolist()}
        return {"samples": self.samples(random_mel(5, 2 * len(codes)).T[None]).flatten().tolist()}

    def run(self, case: str, count: int) -> Times:
        """Seconds of work per second of sound, and until the first sound where there is one."""
        times = [self.shares.listen(self.speak(case)) for _ in range(count)]
        return {name: [value for row in times for value in row[name]] for name in times[0]}

    def build(self) -> dict[str, Any]:
        """Make the system, have ``shares`` watch its parts -> engine, version, parameters."""
        raise NotImplementedError

    def speak(self, case: str) -> Iterator[Tensor]:
        """The request's samples, chunk by chunk."""
        raise NotImplementedError

    def logits(self, codes: Tensor) -> Tensor:
        """codes [N] -> [X] after the request's prompt, its text and them, one step for each."""
        raise NotImplementedError

    def mel(self, codes: Tensor) -> Tensor:
        """codes [N] -> [2 N, 80] behind the request's recording."""
        raise NotImplementedError

    def samples(self, mel: Tensor) -> Tensor:
        """mel [1, 80, n] -> samples for a tone as the excitation."""
        raise NotImplementedError
