"""The flow as codes arrive: every chunk is computed once, as soon as nothing in it can change.

A chunk is complete when its last code and the few after it that the encoder sees are there. It is
then solved for good, all steps, against the memory of the chunks before. Since the release's
chunk mask never lets a frame see past its chunk, the result is that of the complete utterance
under that mask, the last chunk included.
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
    """The ends of chunks, and the chunks that each sees before it."""

    chunk: int = 25
    """Codes in a chunk of the mask, counted from the start of the prompt."""
    left_chunks: int = -1
    """Chunks that a chunk sees before it, -1 for all."""
    first: tuple[int, ...] = ()
    """Codes of speech in the first chunks of a request, the last again and again; empty goes on
    with ``chunk``."""
    steps: int = 10
    """Euler steps."""

    def size(self, at: int, prompt: int) -> int:
        """Count the codes in the chunk that starts ``at``, after so many codes of prompt."""
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
    """The conditioning of a voice for the flow; all of it may be empty."""

    codes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Codes [P] of the recording."""
    mel: Tensor | None = None
    """Its mel [2 P, M]."""
    speaker: Tensor | None = None
    """The speaker embedding [E]."""

    def mel_for(self, flow: Flow) -> Tensor:
        """Return the mel [2 P, M] on the flow's device, zeros where there is none."""
        weight = flow.codes.weight
        if self.mel is None:
            return weight.new_zeros(RISE * len(self.codes), flow.shape.mels)  # [2 P, M]
        return self.mel.to(weight)  # [2 P, M]


class Past:
    """The memories that chunks leave behind: two of the encoder and one for each step."""

    def __init__(self, cutting: Cutting) -> None:
        coarse = cutting.left_chunks * cutting.chunk if cutting.left_chunks >= 0 else -1
        fine = RISE * coarse if coarse >= 0 else -1
        self.at = 0
        """Codes that are done."""
        self.encoder = (Memory(coarse), Memory(fine))
        self.steps = [Memory(fine) for _ in range(cutting.steps)]

    def fork(self) -> Past:
        """Give the same past to another request; it is copied when one of them writes to it."""
        other = object.__new__(Past)
        other.at = self.at
        other.encoder = (self.encoder[0].fork(), self.encoder[1].fork())
        other.steps = [memory.fork() for memory in self.steps]
        return other

    def numbers(self) -> int:
        """Count the numbers that are remembered."""
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
        """Start after the prompt; ``past`` is another request's after the same prompt, if any."""
        self.flow, self.cutting = flow, cutting
        self.prompt = len(prompt.codes)
        self._frames = RISE * self.prompt
        self._under, self._noise = noises.under(self._frames), noises
        self._prompt_mel = prompt.mel_for(flow)  # [2 P, M]
        with torch.inference_mode():
            self._speaker = flow.speaker_of(prompt.speaker)  # [M]
        self.past = past.fork() if past else Past(cutting)
        self._waiting = prompt.codes.to(flow.device)[self.past.at :]  # [n]
        self._advance()

    def wants(self) -> int:
        """Count the codes that ``push`` needs for the next chunk."""
        return self._size() + self.flow.shape.lookahead - len(self._waiting)

    def push(self, codes: Tensor) -> Tensor:
        """Add codes [n] -> the mel [k, M] of speech that is final now; k may be 0."""
        self._waiting = torch.cat([self._waiting, codes.to(self.flow.device)])  # [n']
        return self._advance()  # [k, M]

    def finish(self) -> Tensor:
        """Solve what is left -> mel [k, M]."""
        parts = [self._nothing()]
        # codes after the last chunk are only a prompt's own when nothing was pushed
        while len(self._waiting) and self.past.at + len(self._waiting) > self.prompt:
            parts.append(self._solve(min(self._size(), len(self._waiting))))
        return torch.cat(parts)  # [k, M]

    def _size(self) -> int:
        return self.cutting.size(self.past.at, self.prompt)

    def _nothing(self) -> Tensor:
        return self._prompt_mel.new_zeros(0, self.flow.shape.mels)  # [0, M]

    def _advance(self) -> Tensor:
        parts = [self._nothing()]
        while self.wants() <= 0:
            parts.append(self._solve(self._size()))
        return torch.cat(parts)  # [k, M]

    def _solve(self, size: int) -> Tensor:
        """Solve the next chunk of ``size`` codes -> its frames [k, M] that are no prompt's."""
        flow, past = self.flow, self.past
        begin, end = RISE * past.at, RISE * (past.at + size)
        with torch.inference_mode():
            codes = self._waiting[:size]  # [size]
            following = self._waiting[size:][: flow.shape.lookahead]  # [m]
            encoded = flow.encode(codes, following, memories=past.encoder)  # [2 size, M]
            noise, prompt_mel = self._under[begin:end], self._prompt_mel[begin:end]  # [p, M]
            spoken = end - begin - len(noise)
            noise = torch.cat([noise, self._noise.take(spoken)]).to(encoded)  # [2 size, M]
            zeros = prompt_mel.new_zeros(spoken, prompt_mel.shape[1])  # [2 size - p, M]
            prompt_mel = torch.cat([prompt_mel, zeros])  # [2 size, M]
            conditions = Conditions(encoded, self._speaker, prompt_mel)
            steps = len(past.steps)
            mel = flow.solve(noise, conditions, memories=past.steps, steps=steps)  # [2 size, M]
        self._waiting, past.at = self._waiting[size:], past.at + size
        return mel[max(0, self._frames - begin) :]  # [k, M]


class WholeFlow:
    """``FlowStream``'s interface for upstream's other mode: wait for all codes, let all see all."""

    def __init__(self, flow: Flow, prompt: FlowPrompt, noises: Noises, steps: int) -> None:
        self.flow, self.prompt, self.noises, self.steps = flow, prompt, noises, steps
        self._codes = [prompt.codes.to(flow.device)]

    def wants(self) -> int:
        """Return 0: any number of codes is as good as any other."""
        return 0

    def push(self, codes: Tensor) -> Tensor:
        """Add codes [n] -> nothing yet [0, M]."""
        self._codes.append(codes.to(self.flow.device))
        return self.flow.codes.weight.new_zeros(0, self.flow.shape.mels)  # [0, M]

    def finish(self) -> Tensor:
        """Solve the complete utterance -> mel [k, M] of its speech."""
        codes, before = torch.cat(self._codes), RISE * len(self.prompt.codes)  # [T]
        under = self.noises.under(before)  # [2 P, M]
        noise = torch.cat([under, self.noises.take(RISE * len(codes) - before)])  # [2 T, M]
        with torch.inference_mode():
            prompt_mel = self.prompt.mel_for(self.flow)  # [2 P, M]
            noise = noise.to(prompt_mel)  # [2 T, M]
            speaker = self.prompt.speaker
            mel = self.flow.solve_all(codes, prompt_mel, speaker, noise, steps=self.steps)
            return mel[before:]  # [k, M]
