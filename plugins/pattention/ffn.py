"""Pattention (TokenFormer, arXiv 2410.23168, equations 4 to 6): attention to learned slots.

s = K x            y = V' gelu(tau s / |s|)            K, V [P, D], tau = sqrt(P)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import OptionalSize
from wishbone.core.contract.stack.mixer import Call, Mixer, Place


@dataclass
class PattentionConfig:
    """Slots."""

    slots: OptionalSize = 0
    """P; 0 means the stack's ``ffn_width``, or four times the width without one."""
    scaled_for: OptionalSize = 0
    """P of the square root tau; 0 means ``slots``. Larger parts made by ``grown`` keep it."""


class Pattention(Mixer):
    """Two matrices and a norm between them; remembers nothing."""

    Config = PattentionConfig
    targets = ("keys", "values")

    def __init__(self, config: PattentionConfig, place: Place) -> None:
        super().__init__(config, place)
        slots = config.slots or place.ffn_width or 4 * place.width
        self.tau = (config.scaled_for or slots) ** 0.5
        self.keys = nn.Linear(place.width, slots, bias=False)
        self.values = nn.Linear(slots, place.width, bias=False)
        self.reset_parameters()

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [..., D] -> y [..., D]."""
        scores = F.normalize(self.keys(x), dim=-1)  # [..., P]
        return self.values(F.gelu(self.tau * scores)), state

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D]."""
        return self.forward(x, state, call)

    def reset_parameters(self) -> None:
        """Draw as TokenFormer's configurations do: normal, values smaller by sqrt(2 layers)."""
        nn.init.normal_(self.keys.weight, std=0.02)
        nn.init.normal_(self.values.weight, std=0.02 / (2 * self.place.layers) ** 0.5)


@torch.no_grad()
def grown(part: Pattention, slots: int) -> Pattention:
    """Return ``part`` with more slots, ``slots`` in all, that computes the same function.

    New keys are zero, so they change no norm and gelu(0) = 0 hides their values, which are drawn:
    the gradient of a new key goes through its value. tau stays that of the first number of slots.
    """
    first, more = part.config.scaled_for or part.keys.out_features, slots - part.keys.out_features
    config = replace(part.config, slots=slots, scaled_for=first)
    larger = Pattention(config, part.place).to(part.keys.weight)
    larger.keys.weight.copy_(F.pad(part.keys.weight, (0, 0, 0, more)))
    larger.values.weight[:, : slots - more] = part.values.weight
    return larger
