"""The contracts of the two halves of a codec: audio to codes, codes to audio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Part


@dataclass(frozen=True)
class CodeSpace:
    """Facts about a codec that a layout and a head need."""

    size: int
    """Codes per codebook, X without the layout's own extra ids."""
    rate: float
    """Code frames per second of audio."""
    codebooks: int = 1
    """Q."""
    levels: tuple[int, ...] = ()
    """Levels of each FSQ digit, least significant first; empty where codes have no digits."""
    global_size: int = 0
    """Codes of the codebook that describes an utterance as a whole; 0 where there is none."""
    global_count: int = 0
    """Number of its codes that describe one utterance."""


class SpeechTokenizer(Part, nn.Module):
    """Audio to codes."""

    sample_rate: int
    """Of the audio it wants, in samples per second."""
    codes: CodeSpace

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """audio [S] in -1..1 at ``sample_rate`` -> codes [T, Q] int64."""

    def encode_batch(self, audios: Sequence[Tensor]) -> list[Tensor]:
        """Codes [T, Q] of each of ``audios`` [S].

        A codec that takes several at once may differ from ``encode`` in the last few frames.
        """
        return [self.encode(audio) for audio in audios]

    def encode_global(self, audio: Tensor) -> Tensor:
        """The codes that describe all of ``audio``, [G] int64; G is 0 where a codec has none."""
        return torch.zeros(0, dtype=torch.int64, device=audio.device)


class DecoderStream(ABC):
    """One utterance's way through a decoder; owns all of its state."""

    def wants(self) -> int:
        """Code frames that ``push`` needs before it can go on; 0 where any number does."""
        return 0

    @abstractmethod
    def push(self, codes: Tensor) -> Tensor:
        """codes [T, Q] -> samples [S] that are final now; S may be 0 while looking ahead."""

    @abstractmethod
    def finish(self) -> Tensor:
        """The samples [S] still held back. The stream cannot be used afterwards."""


class Decoder(Part, nn.Module):
    """Codes to audio."""

    sample_rate: int
    """Samples per second of what it makes."""
    codes: CodeSpace
    samples_per_frame: int | None = None
    """Samples that each code frame makes, where a decoder states it; ``codes`` must agree."""
    lookahead: int
    """Code frames it must see beyond a frame before that frame's samples are final."""

    @abstractmethod
    def start(
        self, *, seed: int = 0, speaker: Tensor | None = None, prompt: State | None = None
    ) -> DecoderStream:
        """A new stream with its own random generator.

        ``speaker`` [E] where the codec wants one; ``prompt`` is what ``hear`` made of the voice's
        recording. A decoder takes no notice of what it has no use for.
        """

    def hear(self, audio: Tensor, codes: Tensor) -> State:
        """Analyse a voice's recording for ``start``: named tensors, {} for nothing.

        audio [S] in -1..1 at this decoder's ``sample_rate``, codes [T, Q] of the same recording.
        """
        return {}
