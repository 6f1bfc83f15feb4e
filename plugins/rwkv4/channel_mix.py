"""Channel mixing of RWKV-4 (arXiv 2305.13048, equations 19 to 21), gated, with a token shift.

x_z = m_z x + (1 - m_z) x'        z in k, r
y = sigmoid(W_r x_r) W_v relu(W_k x_k)^2
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs
from wishbone.plugins.rwkv4.config import ChannelMixConfig
from wishbone.plugins.stack.engines.recipe import Recipe, Row


class ChannelMix(Mixer):
    """It sees one position and the one before it."""

    Config = ChannelMixConfig
    targets = ("key", "value", "receptance")
    vectors = ("mix",)

    def __init__(self, config: ChannelMixConfig, place: Place) -> None:
        super().__init__(config, place)
        width = place.width
        inner = config.width or place.ffn_width or 4 * width
        self.mix = nn.Parameter(torch.empty(2, width))
        """Share of the position itself in k, r: RWKV-LM's time_mix_k, _r."""
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(inner, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.reset_parameters()

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """A position of zeros before the first."""
        zeros = torch.zeros(batch, self.place.width, device=device, dtype=dtype)  # [B, D]
        return {"channel_shift": zeros}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the last position."""
        joined, shift = last_inputs(state["channel_shift"][:, None], x, call.lengths)
        before = joined[:, :-1]  # [B, T, D]
        x_k, x_r = (torch.lerp(before, x, mix.to(x.dtype)) for mix in self.mix)  # [B, T, D] each
        inner = torch.relu(self.key(x_k)).square()  # [B, T, F]
        y = torch.sigmoid(self.receptance(x_r)) * self.value(inner)  # [B, T, D]
        return y, {"channel_shift": shift[:, 0]}

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        before = recipe.load("channel_shift", x.size)
        recipe.store("channel_shift", x)
        x_k, x_r = self.write_mixed(recipe, x, before)
        inner = recipe.map("squared_relu", recipe.linear(x_k, self.key))
        gate = recipe.map("sigmoid", recipe.linear(x_r, self.receptance))
        return recipe.pair("multiply", recipe.linear(inner, self.value), gate)

    def write_mixed(self, recipe: Recipe, x: Row, before: Row) -> list[Row]:
        """Write down the token shift: inputs of k and r."""
        return [recipe.mix(before, x, mix) for mix in self.mix]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-LM does (v4neo, after both of its stages)."""
        height = 1 - self.place.layer / self.place.layers
        ramp = (torch.arange(self.place.width, dtype=torch.float32) / self.place.width) ** height
        self.mix.copy_(ramp.expand(2, -1))  # [2, D]
        rows, columns = self.key.weight.shape
        nn.init.orthogonal_(self.key.weight, gain=math.sqrt(max(1.0, rows / columns)))
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.receptance.weight)
