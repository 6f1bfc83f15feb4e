"""The positions of a text: every id predicts the next."""

from __future__ import annotations

from random import Random

import torch

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, ConfigError
from wishbone.core.contract.layout import Layout, Positions, Prompt, Sample
from wishbone.core.contract.session import LayoutSession
from wishbone.core.contract.text import TextSpace


class TextLayout(Layout):
    """END, the ids of a text, and each predicts the next, the last one END."""

    def __init__(self, text: TextSpace, end: int = -1) -> None:
        self.extra = 1 if end < 0 else 0
        self.end = text.vocabulary if end < 0 else end
        self.codes = CodeSpace(size=text.vocabulary, rate=1.0)
        self.tables = {"speech": text.vocabulary + self.extra}
        if self.end >= self.tables["speech"]:
            raise ConfigError(
                f"'end' is {end}, and the tokenizer has {text.vocabulary} ids.",
                "the text system",
                "Name one of its ids, or -1 for one more.",
            )

    def train(self, sample: Sample, random: Random) -> Positions:
        """Positions [T + 1] of a text of T ids."""
        ids = torch.tensor([self.end, *sample.text])[:, None]  # [T + 1, 1]
        targets = torch.cat([ids[1:], torch.tensor([[self.end]])])  # [T + 1, 1]
        table = torch.zeros(len(ids), dtype=torch.int64)  # [T + 1]
        return Positions(table=table, ids=ids, targets=targets)

    def start(self, prompt: Prompt) -> LayoutSession:
        """Raise ``CapabilityError``: a text model does not speak."""
        raise CapabilityError(
            "A model of text does not speak.", "task: text", "Use 'wishbone text' to continue text."
        )
