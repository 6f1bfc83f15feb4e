"""The flow of CosyVoice2: codes to mel spectrogram, by an ordinary differential equation.

Conditional flow matching (arXiv:2210.02747) with optimal transport paths: from noise at time 0 a
network says where every frame shall move, and Euler's method follows it in ten steps to time 1.
arXiv:2412.10117, section 3.4; ``CausalMaskedDiffWithXvec`` in cosyvoice/flow/flow.py and
``CausalConditionalCFM`` in cosyvoice/flow/flow_matching.py, sizes as in the public release.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.part import Count, Layers, Size
from wishbone.plugins.cosyvoice2.flow.encoder import Encoder
from wishbone.plugins.cosyvoice2.flow.estimator import Estimator
from wishbone.plugins.cosyvoice2.flow.memory import Memory, chunk_mask

CODES = 3**8
"""Rows of the table of codes."""
RISE = Encoder.RISE
"""Mel frames per code."""
GUIDANCE = 0.7
"""Step beyond the guided velocity, away from the unguided one, as a share of their distance."""


@dataclass
class FlowShape:
    """Sizes of a flow; the defaults are those of the release."""

    mels: Size = 80
    """Bands of the spectrogram."""
    speaker: Size = 192
    """Numbers in a speaker vector."""
    lookahead: Count = 3
    """Codes the encoder sees ahead."""
    encoder_width: Size = 512
    """D of the encoder."""
    encoder_heads: Layers = 8
    """Heads of its attention, ``encoder_width`` over as many numbers each."""
    encoder_inner: Size = 2048
    """Inner width of its linear layers."""
    encoder_blocks: Layers = 6
    """Blocks at 25 Hz."""
    encoder_fine_blocks: Layers = 4
    """Blocks at 50 Hz."""
    width: Size = 256
    """Channels of the estimator."""
    units: Layers = 12
    """Its units in the middle."""
    blocks: Layers = 4
    """Transformer blocks in each unit."""
    heads: Layers = 8
    """Heads of its attention."""
    head_size: Size = 64
    """Numbers per head."""


@dataclass(frozen=True)
class Conditions:
    """The inputs for a stretch of n mel frames, beside noise."""

    encoded: Tensor
    """[n, M], the encoder's output for the codes (``mu`` in the public code)."""
    speaker: Tensor
    """[M], the same for all frames."""
    prompt_mel: Tensor
    """[n, M], mel of the prompt, zeros where there is none."""


def times(steps: int) -> list[float]:
    """List steps + 1 times from 0 to 1, close together at the start: 1 - cos(pi/2 k/steps)."""
    return [1.0 - math.cos(0.5 * math.pi * k / steps) for k in range(steps + 1)]


class Flow(nn.Module):
    """Codes, a speaker and a prompt's mel -> mel; one utterance at a time."""

    def __init__(self, shape: FlowShape | None = None) -> None:
        super().__init__()
        self.shape = shape = shape or FlowShape()
        self.codes = nn.Embedding(CODES, shape.encoder_width)
        self.speaker = nn.Linear(shape.speaker, shape.mels)
        self.encoder = Encoder(
            shape.encoder_width,
            shape.encoder_heads,
            shape.encoder_inner,
            shape.encoder_blocks,
            shape.encoder_fine_blocks,
            shape.lookahead,
        )
        self.wanted = nn.Linear(shape.encoder_width, shape.mels)
        self.estimator = Estimator(
            shape.mels, shape.width, shape.units, shape.blocks, shape.heads, shape.head_size
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.codes.weight.device

    def speaker_of(self, vector: Tensor | None) -> Tensor:
        """Project vector [E], a speaker embedding of any norm, or None for nobody -> [M]."""
        weight = self.speaker.weight
        if vector is None:
            vector = torch.zeros(weight.shape[1])  # [E]
        return self.speaker(F.normalize(vector.flatten().to(weight), dim=0))  # [M]

    def encode(
        self,
        codes: Tensor,
        following: Tensor,
        sees: tuple[Tensor | None, Tensor | None] = (None, None),
        memories: tuple[Memory | None, Memory | None] = (None, None),
    ) -> Tensor:
        """Encode codes [n], with those after them [m] -> [2 n, M]; pairs as ``Encoder`` has."""
        # some releases pad with -1
        vectors = self.codes(torch.cat([codes, following]).clamp(min=0))[None]  # [1, n + m, D]
        now, then = vectors[:, : len(codes)], vectors[:, len(codes) :]  # [1, n, D], [1, m, D]
        return self.wanted(self.encoder(now, then, sees, memories))[0]  # [2 n, M]

    def path(
        self,
        noise: Tensor,
        conditions: Conditions,
        sees: Tensor | None = None,
        memories: list[Memory] | None = None,
        steps: int = 10,
    ) -> Iterator[Tensor]:
        """Move noise [n, M] -> [n, M] after each of ``steps`` Euler steps; the last one is mel.

        ``sees`` [n, n] for a whole utterance, or one memory for each step to go on from an earlier
        stretch. Classifier-free guidance (arXiv:2207.12598): the second row of the batch has
        zeros in place of all conditions.
        """
        encoded = conditions.encoded  # [n, M]
        speaker = conditions.speaker.expand_as(encoded)  # [n, M]
        inputs = torch.cat([encoded, speaker, conditions.prompt_mel], dim=1)  # [n, 3 M]
        inputs = torch.stack([inputs, torch.zeros_like(inputs)])  # [2, n, 3 M]
        x, at = noise, times(steps)
        narrow = self.estimator.out.weight.dtype
        for step in range(steps):
            both = torch.cat([x.expand(2, -1, -1), inputs], dim=2).to(narrow)  # [2, n, 4 M]
            memory = memories[step] if memories else None
            t = torch.tensor(at[step], device=x.device)  # []
            guided, unguided = self.estimator(both, t, sees, memory).to(x.dtype)  # [n, M] each
            velocity = (1.0 + GUIDANCE) * guided - GUIDANCE * unguided  # [n, M]
            x = x + (at[step + 1] - at[step]) * velocity  # [n, M]
            yield x

    def solve(
        self,
        noise: Tensor,
        conditions: Conditions,
        sees: Tensor | None = None,
        memories: list[Memory] | None = None,
        steps: int = 10,
    ) -> Tensor:
        """Solve from noise [n, M] -> mel [n, M]: the end of ``path``."""
        *_, mel = self.path(noise, conditions, sees, memories, steps)
        return mel

    def solve_all(
        self,
        codes: Tensor,
        prompt_mel: Tensor,
        speaker: Tensor | None,
        noise: Tensor,
        chunk: int = 0,
        left_chunks: int = -1,
        steps: int = 10,
    ) -> Tensor:
        """codes [T], prompt_mel [P, M], noise [2 T, M] -> mel [2 T, M], all at once.

        ``prompt_mel`` is the mel of the first frames, those of a prompt. ``chunk`` is in codes: 0
        lets everything see everything; otherwise a code sees its own chunk and ``left_chunks``
        before it, -1 for all, as in a stream.
        """
        length = len(codes)
        sees: tuple[Tensor | None, Tensor | None] = (None, None)
        if chunk:
            back = max(-1, chunk * left_chunks)
            coarse = chunk_mask(length, chunk, back)  # [T, T]
            fine = chunk_mask(RISE * length, RISE * chunk, max(-1, RISE * back))  # [2 T, 2 T]
            sees = (coarse.to(codes.device), fine.to(codes.device))
        encoded = self.encode(codes, codes[:0], sees)  # [2 T, M]
        padded = F.pad(prompt_mel, (0, 0, 0, RISE * length - len(prompt_mel)))  # [2 T, M]
        conditions = Conditions(encoded, self.speaker_of(speaker), padded)
        return self.solve(noise, conditions, sees[1], steps=steps)  # [2 T, M]
