"""A wrapper as small as one can be, registered for the tests that ask for it."""

from dataclasses import dataclass

import torch
from torch import nn

from wishbone.core.model.wrapper import Wrapper, count_base
from wishbone.core.registry.loader import registry
from wishbone.core.registry.registry import Entry

KEY = "testing/tilted"


class Tilted(Wrapper):
    """y of the base plus y times a row of its own, which begins as the base's first matrix says."""

    @dataclass
    class Config(Wrapper.Config):
        tilt: float = 0.0
        """Where the row begins before the base has weights."""

    def __init__(self, config):
        super().__init__(config)
        self.row = nn.Parameter(torch.full((self.width,), config.tilt))

    def adopt(self):
        """The first row of the first matrix, so that a test sees when it was called."""
        first = next(p for _, p in sorted(self.base.named_parameters()) if p.ndim > 1)
        with torch.no_grad():
            self.row.copy_(first.flatten()[: self.width])

    def forward(self, x, state=None, *, mask=None):
        y, state = self.base(x, state, mask=mask)
        return y + y * self.row, state

    def step_(self, x, state):
        y = self.base.step_(x, state)
        return y + y * self.row

    @classmethod
    def count_parameters(cls, config):
        return count_base(config.base) + config.base["width"]


class Strict(Tilted):
    """The same, and never without weights of its own."""

    begins = False


def register():
    """Make both known in this process."""
    entries = registry()._entries
    for key, name in ((KEY, "Tilted"), ("testing/strict", "Strict")):
        entries["backbone", key] = Entry("backbone", key, f"wrapped_toys:{name}")


def forget():
    """Undo ``register``."""
    for key in (KEY, "testing/strict"):
        registry()._entries.pop(("backbone", key), None)
