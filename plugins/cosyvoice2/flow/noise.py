"""Gaussian noise under the flow, which does not depend on how codes arrive."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from wishbone.core.contract.errors import UsageError

BLOCK = 50
"""Frames drawn together. PyTorch's numbers depend on how many are drawn at once, so a complete
block is drawn, however few of its frames are taken."""
UPSTREAM_FRAMES = 15_000
"""Length of upstream's only noise: 300 s."""
PROMPT_SEED = 0x5EED_0F_7E_9A3B
"""Seed of the noise under every prompt. It is the same in all requests, so that a prompt's memory
can be used again; nobody hears it, because a prompt's own frames are thrown away."""


class Noise:
    """An endless row of noise frames [M], taken in order."""

    def __init__(self, mels: int, seed: int) -> None:
        self.mels = mels
        # on the CPU, so that a seed sounds the same on every device
        self._generator = torch.Generator().manual_seed(seed)
        self._ahead = torch.zeros(0, mels)  # [k, M], drawn and not taken yet

    def take(self, frames: int) -> Tensor:
        """Draw the next [n, M]."""
        parts, count = [self._ahead], len(self._ahead)
        while count < frames:
            parts.append(torch.randn(BLOCK, self.mels, generator=self._generator))  # [50, M]
            count += BLOCK
        drawn = torch.cat(parts)  # [count, M]
        self._ahead = drawn[frames:]  # [count - n, M]
        return drawn[:frames]  # [n, M]


class Noises:
    """The noise of one request: under its prompt, and under its speech.

    With ``upstream``, both are the one row that upstream draws once and uses from its first frame
    on for every request (``rand_noise`` in cosyvoice/flow/flow_matching.py). Raises ``UsageError``
    after 300 s, where that row ends.
    """

    def __init__(self, mels: int, seed: int, upstream: bool = False) -> None:
        self.mels = mels
        self._speech = Noise(mels, seed)
        self._upstream, self._position = upstream, 0

    def under(self, frames: int) -> Tensor:
        """Draw [n, M] under the prompt; to be called first, once."""
        if self._upstream:
            return self.take(frames)  # [n, M]
        return Noise(self.mels, PROMPT_SEED).take(frames)  # [n, M]

    def take(self, frames: int) -> Tensor:
        """Draw the next [n, M] under speech."""
        if not self._upstream:
            return self._speech.take(frames)  # [n, M]
        begin, self._position = self._position, self._position + frames
        if self._position > UPSTREAM_FRAMES:
            raise UsageError(
                "Upstream's noise is 300 seconds long, and prompt and speech are longer.",
                "a decoder with parity: upstream",
                "Use parity: right, or speak shorter pieces.",
            )
        return _upstream(self.mels)[begin : self._position]  # [n, M]


@cache
def _upstream(mels: int) -> Tensor:
    """Draw upstream's only noise [15 000, M]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(mels, UPSTREAM_FRAMES, generator=generator).T  # [15 000, M]
