"""The two sides of the suite ``cosyvoice2``: their common request, cases and comparison."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.bench.contenders import resident_bytes
from wishbone.core.contract.extensions.contender import Contender, Job, Times
from wishbone.plugins.cosyvoice2.bench.clocks import Shares
from wishbone.plugins.cosyvoice2.flow.model import CODES
from wishbone.plugins.cosyvoice2.tokenizer import CosyVoice2Tokenizer

TONE = 0.05
"""Loudness of the excitation in the check of the vocoder."""


@dataclass
class Request:
    """The text and the voice that both sides speak; the same numbers in every process."""

    text: list[int]
    """Ids of the text."""
    transcript: list[int]
    """Ids of the recording's transcript."""
    codes: Tensor
    """Codes [P] of the recording."""
    mel: Tensor
    """Its mel [2 P, 80]."""
    speaker: Tensor
    """The speaker embedding [192]."""
    length: int
    """Codes to draw, no fewer and no more."""

    @property
    def ratio(self) -> float:
        """Codes per id of the text, for an upper and a lower bound that leave no choice."""
        # beyond the exact quotient, as both sides cut the product to a whole number
        return (self.length + 0.5) / len(self.text)


def request(model: Mapping[str, Any]) -> Request:
    """Make the request of a suite's ``model``."""
    tokenizer = CosyVoice2Tokenizer(CosyVoice2Tokenizer.Config(release=str(model["release"])))
    (_, text), *more = tokenizer.pieces(model["text"])
    if more:
        raise ValueError("the text is spoken in several pieces; write a shorter one")
    prompt, draw = int(model["prompt"]), torch.Generator().manual_seed(1)
    return Request(
        text=list(text),
        transcript=list(tokenizer.encode(model["transcript"])),
        codes=torch.randint(CODES, (prompt,), generator=draw),  # [P]
        mel=random_mel(2, 2 * prompt),
        speaker=torch.cos(1.7 * torch.arange(192)),  # [192]
        length=int(model["codes"]),
    )


def random_mel(seed: int, frames: int) -> Tensor:
    """Draw mel [n, 80], the same wherever it is drawn."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 80, generator=draw) - 5.0  # [n, 80]


def excitation(samples: int) -> Tensor:
    """Make a tone [1, 1, S], since noise would differ between two programs."""
    return TONE * torch.sin(0.05 * torch.arange(samples)).view(1, 1, -1)  # [1, 1, S]


def no_release(job: Job) -> str:
    """Give the reason that no release can be used, or an empty string."""
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


class Speaking(Contender):
    """Cases ``whole``, ``stream`` and ``new voice``.

    ``whole`` waits for all codes and solves the flow without a mask, ``stream`` gives sound as soon
    as it can, both from text to samples. ``new voice`` is the stream of a voice's first request,
    where nothing of it is in memory yet. Nothing is prepared: the first round does not count.
    """

    def load(self) -> dict[str, Any]:
        """Build the side on one core, with the suite's request."""
        one_core(self.job)
        before = resident_bytes()
        self.request, self.shares = request(self.job.model), Shares()
        return {**self.build(), "loaded_bytes": resident_bytes() - before}

    @torch.inference_mode()
    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Logits, mel or samples for the codes ``ids``, by ``way``."""
        codes = torch.tensor(what["ids"])  # [N]
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
        """Speak the request -> its samples [S], chunk by chunk."""
        raise NotImplementedError

    def logits(self, codes: Tensor) -> Tensor:
        """codes [N] -> logits [X] after the request's prompt, its text and these, one by one."""
        raise NotImplementedError

    def mel(self, codes: Tensor) -> Tensor:
        """codes [N] -> mel [2 N, 80] behind the request's recording."""
        raise NotImplementedError

    def samples(self, mel: Tensor) -> Tensor:
        """mel [1, 80, n] -> samples [1, S] for a tone as the excitation."""
        raise NotImplementedError
