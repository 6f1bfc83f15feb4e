"""The contracts of the two halves of a codec: audio to codes, codes to audio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Part


@dataclass(frozen=True)
class CodeSpace:
    """Facts of a codec that a layout and a head need."""

    size: int
    """Codes of one codebook: X without the layout's own extra ids."""
    rate: float
    """Code frames per second of audio."""
    codebooks: int = 1
    """Codebooks Q of one frame."""
    levels: tuple[int, ...] = ()
    """Levels of each FSQ digit, least significant first; empty where codes have no digits."""
    global_size: int = 0
    """Codes of the codebook that describes an utterance as a whole; 0 where there is none."""
    global_count: int = 0
    """Number of its codes that describe one utterance."""


class SpeechTokenizer(Part, nn.Module):
    """Audio to codes."""

    sample_rate: int
    """Samples per second of the audio that ``encode`` takes."""
    codes: CodeSpace
    """Facts of the codes that it makes."""
    level: float | None = None
    """Root mean square of loud speech that it learned from; recordings of voices are brought to
    it. None where it does not mind, and leaves them as they are."""

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """audio [S] in -1..1 at ``sample_rate`` -> codes [T, Q] int64, ``codes.rate`` a second."""

    def encode_batch(self, audios: Sequence[Tensor]) -> list[Tensor]:
        """audios [S] of any lengths -> codes [T, Q] of each.

        A codec that takes several at once may differ from ``encode`` in the last few frames.
        """
        return [self.encode(audio) for audio in audios]

    def encode_global(self, audio: Tensor) -> Tensor:
        """audio [S] -> codes of the utterance as a whole [G] int64; G is 0 without any."""
        return torch.zeros(0, dtype=torch.int64, device=audio.device)  # [0]


class DecoderStream(ABC):
    """One utterance on its way through a decoder; owns all of its state."""

    wants: ClassVar[Callable[..., int] | None] = None
    """An optional method: the number of code frames that the next ``push`` needs to make samples,
    or 0. Streams that make samples of any number of frames do without it."""

    @abstractmethod
    def push(self, codes: Tensor) -> Tensor:
        """codes [T, Q] -> samples [S] in -1..1 that are final now; S is 0 while looking ahead."""

    @abstractmethod
    def finish(self) -> Tensor:
        """Return the samples [S] still held back. The stream cannot be used afterwards."""


class Decoder(Part, nn.Module):
    """Codes to audio."""

    sample_rate: int
    """Samples per second of the audio that it makes."""
    codes: CodeSpace
    """Facts of the codes that it takes."""
    samples_per_frame: int | None = None
    """Samples that each code frame makes, where a decoder states it; ``codes`` must agree."""
    lookahead: int
    """Code frames behind a frame that must arrive before that frame's samples are final."""

    @abstractmethod
    def start(
        self, *, seed: int = 0, speaker: Tensor | None = None, prompt: State | None = None
    ) -> DecoderStream:
        """Begin an utterance: a new stream with its own random generator.

        ``speaker`` is a speaker embedding [E], or the codes [G] of the utterance as a whole, where
        the codec uses one; ``prompt`` is what ``hear`` returned for the voice's recording. A
        decoder ignores what it has no use for.
        """

    def hear(self, audio: Tensor, codes: Tensor) -> State:
        """audio [S], codes [T, Q] of a voice's recording -> the ``prompt`` of ``start``.

        The audio is in -1..1 at this decoder's ``sample_rate``. Returns named tensors, which are
        stored with the voice; {} where the decoder uses none.
        """
        return {}
