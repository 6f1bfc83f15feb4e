"""The smallest language model: what suites need where the part under test is another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import Layout, Positions, Prompt, Sample
from wishbone.core.contract.session import LayoutSession
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.testing.common import seeded, trained_looking_

WIDTH, CODES, TEXT = 8, 11, 5


@dataclass
class Empty:
    """Nothing to choose."""


class ToyBackbone(Backbone):
    """Adds what it has seen: a running sum through one matrix."""

    Config = Empty
    width = WIDTH

    def __init__(self, config: Empty) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        return {"sum": torch.zeros(batch, WIDTH, device=device)}  # [B, D]

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        before = self.init_state(len(x), device=x.device) if state is None else state
        real = x if mask is None else x * mask[..., None]  # [B, T, D]
        sums = before["sum"][:, None] + real.cumsum(1)  # [B, T, D]
        after = sums[:, -1] if x.shape[1] else before["sum"]  # [B, D]
        return x + self.mix(sums), {"sum": after}  # [B, T, D]

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        return 4 * WIDTH

    @classmethod
    def count_parameters(cls, config: Empty) -> int:
        return WIDTH**2 + WIDTH


class ToyHead(Head):
    """One table of codes in both directions."""

    Config = Empty

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(CODES, WIDTH)

    def embed(self, ids: Tensor) -> Tensor:
        return self.table(ids).sum(-2)  # [..., D]

    def forward(self, hidden: Tensor) -> Tensor:
        return (hidden @ self.table.weight.T)[..., None, :]  # [..., 1, X]


class ToyLayout(Layout):
    """The names of the tables, which is all that a model asks of a layout."""

    Config = Empty
    tables: Mapping[str, int] = {"speech": CODES, "text": TEXT}
    extra = 0

    def train(self, sample: Sample, random: Random) -> Positions:
        raise NotImplementedError

    def start(self, prompt: Prompt) -> LayoutSession:
        raise NotImplementedError


def toy_model() -> SpeechLM:
    """Always the same weights, none of which is zero."""
    with seeded(0):
        model = SpeechLM(ToyBackbone(Empty()), ToyHead(), ToyLayout())
    return trained_looking_(model, 0)
