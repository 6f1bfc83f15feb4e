"""Channel mixing of RWKV-5 and RWKV-6 (arXiv 2404.05892, equation 18): that of RWKV-4, narrower.

y = sigmoid(W_r x_r) W_v relu(W_k x_k)^2, with F = 3.5 D rounded down to a multiple of 32.
RWKV-6 stores the share of the position before, RWKV-5 that of the position itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import OptionalSize
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.core.contract.stack.rows import last_inputs
from wishbone.plugins.rwkv4.channel_mix import ChannelMix
from wishbone.plugins.stack.engines.recipe import Recipe, Row


@dataclass
class ChannelMixConfig:
    """Inner width."""

    width: OptionalSize = 0
    """Inner width F; 0 means the stack's ``ffn_width``, or 3.5 times the width without one."""


class ChannelMix5(ChannelMix):
    """RWKV-5's."""

    Config = ChannelMixConfig

    def __init__(self, config: Any, place: Place) -> None:
        inner = config.width or place.ffn_width or max(32, int(3.5 * place.width) // 32 * 32)
        super().__init__(replace(config, width=inner), place)


class ChannelMix6(ChannelMix5):
    """RWKV-6's."""

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the last position."""
        joined, shift = last_inputs(state["channel_shift"][:, None], x, call.lengths)
        difference = joined[:, :-1] - x  # [B, T, D]
        x_k, x_r = (torch.addcmul(x, difference, mix) for mix in self.mix.to(x.dtype))  # [B, T, D]
        inner = torch.relu(self.key(x_k)).square()  # [B, T, F]
        y = torch.sigmoid(self.receptance(x_r)) * self.value(inner)  # [B, T, D]
        return y, {"channel_shift": shift[:, 0]}

    recipe = ChannelMix5.recipe

    def write_mixed(self, recipe: Recipe, x: Row, before: Row) -> list[Row]:
        """Write down the token shift: the share is that of the position before."""
        return [recipe.mix(x, before, mix) for mix in self.mix]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-LM's v6 does."""
        super().reset_parameters()
        self.mix.copy_(1 - self.mix)
