"""The flow as codes arrive: every chunk is computed once, as soon as nothing in it can change.

A chunk is complete when its last code and the few after it that the encoder sees are there. It is
then solved for good, all steps, against what the chunks before left in memory. Since the release's
chunk mask never lets a frame see past its chunk, this gives what the whole utterance gives under
that mask, the last chunk included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from wishbone.plugins.cosyvoice2.flow.memory import Memory
from wishbone.plugins.cosyvoice2.flow.model import RISE, Conditions, Flow
from wishbone.plugins.cosyvoice2.flow.noise import Noises


@dataclass(frozen=True)
class Cutting:
    """Where chunks end, and how far back they see."""

    chunk: int = 25
    """Codes in a chunk of the mask, counted from the start of the prompt."""
    left: int = -1
    """Chunks that a chunk sees before it, -1 for all."""
    first: tuple[int, ...] = ()
    """Codes of speech in the first chunks of a request, the last again and again; empty goes on
    with ``chunk``."""
    steps: int = 10
    """Euler steps."""

    def size(self, at: int, prompt: int) -> int:
        """Codes in the chunk that starts ``at``, after so many codes of prompt."""
        if not self.first or at + self.chunk <= prompt:
            return self.chunk
        end = prompt
        for size in self.first:
            end += size
            if end > at:
                return end - at
        return self.first[-1]


@dataclass
class FlowPrompt:
    """What the flow knows of a voice; all of it may be empty."""

    codes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """[P]."""
    mel: Tensor | None = None
    """[2 P, M]."""
    speaker: Tensor | None = None
    """[E]."""

    def mel_for(self, flow: Flow) -> Tensor:
        """[2 P, M] where the flow's weights are, zeros where nothing is known."""
        weight = flow.codes.weight
        if self.mel is None:
            return weight.new_zeros(RISE * len(self.codes), flow.shape.mels)
        return self.mel.to(weight)


class Past:
    """What the chunks so far left behind: two memories of the encoder and one for each step."""

    def __init__(self, cutting: Cutting) -> None:
        left = cutting.left * cutting.chunk if cutting.left >= 0 else -1
        fine = RISE * left if left >= 0 else -1
        self.at = 0
        """Codes that are done."""
        self.encoder = (Memory(left), Memory(fine))
        self.steps = [Memory(fine) for _ in range(cutting.steps)]

    def fork(self) -> Past:
        """The same past for another request, not copied before it is written to."""
        other = object.__new__(Past)
        other.at = self.at
        other.encoder = (self.encoder[0].fork(), self.encoder[1].fork())
        other.steps = [memory.fork() for memory in self.steps]
        return other

    def numbers(self) -> int:
        """How many numbers are remembered."""
        return sum(memory.numbers() for memory in (*self.encoder, *self.steps))


class FlowStream:
    """One request's way through the flow; owns all of its state."""

    def __init__(
        self,
        flow: Flow,
        cutting: Cutting,
        prompt: FlowPrompt,
        noises: Noises,
        past: Past | None = None,
    ) -> None:
        """``past`` is what another request found after the same prompt; this one goes on there."""
        self.flow, self.cutting = flow, cutting
        self.prompt = len(prompt.codes)
        self._frames = RISE * self.prompt
        self._under, self._noise = noises.under(self._frames), noises
        self._known = prompt.mel_for(flow)
        with torch.inference_mode():
            self._speaker = flow.speaker_of(prompt.speaker)
        self.past = past.fork() if past else Past(cutting)
        self._waiting = prompt.codes.to(flow.device)[self.past.at :]
        self._advance()

    def wants(self) -> int:
        """Codes that ``push`` needs for the next chunk."""
        return self._size() + self.flow.shape.lookahead - len(self._waiting)

    def push(self, codes: Tensor) -> Tensor:
        """codes [n] -> mel [k, M] of what was spoken, final; k may be 0."""
        self._waiting = torch.cat([self._waiting, codes.to(self.flow.device)])
        return self._advance()

    def finish(self) -> Tensor:
        """The mel [k, M] still to come."""
        parts = [self._nothing()]
        # codes after the last chunk are only a prompt's own when nothing was pushed
        while len(self._waiting) and self.past.at + len(self._waiting) > self.prompt:
            parts.append(self._solve(min(self._size(), len(self._waiting))))
        return torch.cat(parts)

    def _size(self) -> int:
        return self.cutting.size(self.past.at, self.prompt)

    def _nothing(self) -> Tensor:
        return self._known.new_zeros(0, self.flow.shape.mels)

    def _advance(self) -> Tensor:
        parts = [self._nothing()]
        while self.wants() <= 0:
            parts.append(self._solve(self._size()))
        return torch.cat(parts)

    def _solve(self, size: int) -> Tensor:
        """The next chunk of ``size`` codes -> its frames [k, M] that are no prompt's."""
        flow, past = self.flow, self.past
        begin, end = RISE * past.at, RISE * (past.at + size)
        with torch.inference_mode():
            codes, following = self._waiting[:size], self._waiting[size:][: flow.shape.lookahead]
            wanted = flow.encode(codes, following, memories=past.encoder)
            noise, known = self._under[begin:end], self._known[begin:end]
            fresh = end - begin - len(noise)
            noise = torch.cat([noise, self._noise.take(fresh)]).to(wanted)
            known = torch.cat([known, known.new_zeros(fresh, known.shape[1])])
            given = Conditions(wanted, self._speaker, known)
            mel = flow.solve(noise, given, memories=past.steps, steps=len(past.steps))
        self._waiting, past.at = self._waiting[size:], past.at + size
        return mel[max(0, self._frames - begin) :]


class WholeFlow:
    """The same interface for upstream's other way: wait for all codes, then let all see all."""

    def __init__(self, flow: Flow, prompt: FlowPrompt, noises: Noises, steps: int) -> None:
        self.flow, self.prompt, self.noises, self.steps = flow, prompt, noises, steps
        self._codes = [prompt.codes.to(flow.device)]

    def wants(self) -> int:
        """Any number of codes is as good as any other."""
        return 0

    def push(self, codes: Tensor) -> Tensor:
        """codes [n] -> nothing yet [0, M]."""
        self._codes.append(codes.to(self.flow.device))
        return self.flow.codes.weight.new_zeros(0, self.flow.shape.mels)

    def finish(self) -> Tensor:
        """The mel [k, M] of all that was spoken."""
        codes, before = torch.cat(self._codes), RISE * len(self.prompt.codes)
        under = self.noises.under(before)
        noise = torch.cat([under, self.noises.take(RISE * len(codes) - before)])
        with torch.inference_mode():
            known = self.prompt.mel_for(self.flow)
            noise = noise.to(known)
            speaker = self.prompt.speaker
            return self.flow.whole(codes, known, speaker, noise, steps=self.steps)[before:]
