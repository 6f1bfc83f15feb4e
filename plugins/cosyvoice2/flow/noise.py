"""Where the flow starts from: Gaussian noise that does not depend on how codes arrive."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from wishbone.core.contract.errors import UsageError

BLOCK = 50
"""Frames drawn together. PyTorch's numbers depend on how many are asked for at once, so a block is
always drawn whole, whatever is taken of it."""
UPSTREAM_FRAMES = 15_000
"""Length of upstream's only noise: 300 s."""
PROMPT_SEED = 0x5EED_0F_7E_9A3B
"""Of the noise under every prompt. It is the same in all requests, so that what a prompt leaves in
memory can be used again; nobody hears it, because a prompt's own frames are thrown away."""


class Noise:
    """An endless row of noise frames [M], taken in order."""

    def __init__(self, mels: int, seed: int) -> None:
        self.mels = mels
        # on the CPU, so that a seed sounds the same on every device
        self._generator = torch.Generator().manual_seed(seed)
        self._rest = torch.zeros(0, mels)

    def take(self, frames: int) -> Tensor:
        """The next [n, M]."""
        parts, held = [self._rest], len(self._rest)
        while held < frames:
            parts.append(torch.randn(BLOCK, self.mels, generator=self._generator))
            held += BLOCK
        drawn = torch.cat(parts)
        self._rest = drawn[frames:]
        return drawn[:frames]


class Noises:
    """The noise of one request: under its prompt, and under what it speaks.

    With ``upstream``, both are the one row that upstream draws once and uses from its first frame
    on for every request. Raises ``UsageError`` after 300 s, where that row ends.
    """

    def __init__(self, mels: int, seed: int, upstream: bool = False) -> None:
        self.mels = mels
        self._own = Noise(mels, seed)
        self._upstream, self._taken = upstream, 0

    def under(self, frames: int) -> Tensor:
        """[n, M] under the prompt; to be called first, once."""
        return self.take(frames) if self._upstream else Noise(self.mels, PROMPT_SEED).take(frames)

    def take(self, frames: int) -> Tensor:
        """The next [n, M] under speech."""
        if not self._upstream:
            return self._own.take(frames)
        begin, self._taken = self._taken, self._taken + frames
        if self._taken > UPSTREAM_FRAMES:
            raise UsageError(
                "Upstream's noise is 300 seconds long, and prompt and speech are longer.",
                "a decoder with parity: upstream",
                "Use parity: right, or speak shorter pieces.",
            )
        return _upstream(self.mels)[begin : self._taken]


@cache
def _upstream(mels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(mels, UPSTREAM_FRAMES, generator=generator).T
