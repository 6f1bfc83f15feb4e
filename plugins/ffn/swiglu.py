"""SwiGLU (arXiv:2002.05202, equation 6): out = W_down (silu(gate) * up)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import OptionalSize, Positive
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.plugins.stack.engines.recipe import Recipe, Row


@dataclass
class SwiGLUConfig:
    """Inner width."""

    width: OptionalSize = 0
    """Inner width F; 0 means the stack's ``ffn_width``, or by ``ratio`` where that is 0, too."""
    ratio: Positive = 8 / 3
    """F as a multiple of D, rounded to a multiple of 16: 8/3 costs as much as 4 without a gate."""


class SwiGLU(Mixer):
    """One fused projection to gate and content, one back; remembers nothing."""

    Config = SwiGLUConfig
    targets = ("gate_up", "down")

    def __init__(self, config: SwiGLUConfig, place: Place) -> None:
        super().__init__(config, place)
        inner = inner_width(config, place)
        self.gate_up = nn.Linear(place.width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, place.width, bias=False)
        if place.start:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normal weights of standard deviation sqrt(2 / 5D) (arXiv:1910.05895, section 2.2).

        What is added to the residual stream is smaller by sqrt(2 layers), as in GPT-2.
        """
        spread = math.sqrt(2 / (5 * self.place.width))
        nn.init.normal_(self.gate_up.weight, std=spread)
        nn.init.normal_(self.down.weight, std=spread / math.sqrt(2 * self.place.layers))

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [..., D] -> y [..., D]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # [..., F] each
        return self.down(F.silu(gate) * up), state

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D]."""
        return self.forward(x, state, call)

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        inner = self.down.in_features
        gate, up = recipe.linear(x, self.gate_up).split(inner, inner)
        return recipe.linear(recipe.pair("multiply", recipe.map("silu", gate), up), self.down)

    @classmethod
    def count_parameters(cls, config: SwiGLUConfig, place: Place) -> int:
        """Three matrices."""
        return 3 * place.width * inner_width(config, place)


def inner_width(config: SwiGLUConfig, place: Place) -> int:
    """Return F: of the part itself, of the stack, or by the ratio."""
    by_ratio = max(16, 16 * round(config.ratio * place.width / 16))
    return config.width or place.ffn_width or by_ratio
