"""Mixture of experts (arXiv 1701.06538; as in Mixtral, arXiv 2401.04088): top k of E SwiGLU parts.

p = softmax(W_r x)        y = sum_{e in top k} p_e / (sum of the k) expert_e(x)
balance = E sum_e (share of choices for e) (mean of p_e)           arXiv 2101.03961, equation 4
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import NonNegative, OptionalSize, Size
from wishbone.core.contract.stack.mixer import BALANCE, Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype, real_positions
from wishbone.plugins.initial_weights import start_small


@dataclass
class ExpertsConfig:
    """Experts."""

    experts: Size = 8
    """E."""
    chosen: Size = 2
    """k, experts that a position uses."""
    width: OptionalSize = 0
    """Inner width F of one expert; 0 means the stack's ``ffn_width``, or 8/3 of the width, shared
    among the chosen ones."""
    balance: NonNegative = 0.01
    """Weight of the penalty that spreads positions over experts, in the training loss."""


class Experts(Mixer):
    """Positions go through experts in groups, so sizes of products depend on other positions."""

    Config = ExpertsConfig
    exact = False
    targets = ("gate_up", "down")

    def __init__(self, config: ExpertsConfig, place: Place) -> None:
        super().__init__(config, place)
        if config.chosen > config.experts:
            raise ConfigError(
                f"A position cannot use {config.chosen} of {config.experts} experts.",
                "the feed-forward part 'experts' of the stack",
                "Make chosen smaller, or experts larger.",
            )
        shared = place.ffn_width or round(8 / 3 * place.width)
        inner = config.width or max(1, shared // config.chosen)
        self.router = nn.Linear(place.width, config.experts, bias=False)
        self.parts = nn.ModuleList(_Expert(place.width, inner) for _ in range(config.experts))
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> ExpertsConfig:
        """Two of four."""
        return ExpertsConfig(experts=4, width=32)

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [..., D] -> y [..., D]; in training, leaves a penalty in ``call.extra``."""
        flat = x.reshape(-1, x.shape[-1])  # [M, D]
        shares = (
            self.router(flat).to(memory_dtype(x.dtype)).softmax(-1)  # [M, E]
        )
        weights, chosen = shares.topk(self.config.chosen, -1)  # [M, k]
        weights = weights / weights.sum(-1, keepdim=True)  # [M, k]
        if self.training and x.ndim == 3:
            self._leave_penalty(shares.view(*x.shape[:2], -1), chosen.view(*x.shape[:2], -1), call)
        y = torch.zeros_like(flat)  # [M, D]
        for number in chosen.unique().tolist():
            position, rank = (chosen == number).nonzero(as_tuple=True)  # [m] each
            answer = self.parts[number](flat[position])  # [m, D]
            answer = answer * weights[position, rank, None].to(answer.dtype)  # [m, D]
            y = y.index_add(0, position, answer.to(y.dtype))  # [M, D]
        return y.view_as(x), state

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D]."""
        return self.forward(x, state, call)

    def operations(self, context: int = 0) -> int:
        """Take back the matrices of the experts that a position does not use."""
        unused = self.config.experts - self.config.chosen
        return -2 * unused * sum(p.numel() for p in self.parts[0].parameters())

    def reset_parameters(self) -> None:
        """Draw small normal weights."""
        start_small(self.place, self.router)
        for part in self.parts:
            assert isinstance(part, _Expert)
            start_small(self.place, part.gate_up, output=part.down)

    def _leave_penalty(self, shares: Tensor, chosen: Tensor, call: Call) -> None:
        """shares [B, T, E], chosen [B, T, k]: add the penalty of real positions to ``balance``."""
        real = real_positions(call.lengths, shares)  # [B, T]
        if real is not None:
            shares, chosen = shares[real], chosen[real]  # [M, E], [M, k]
        experts = self.config.experts
        chances, picks = shares.reshape(-1, experts), chosen.flatten()  # [M, E], [M k]
        counts = F.one_hot(picks, experts).to(shares.dtype).sum(0)  # [E]
        # no position may be real: means of nothing are not numbers
        choices, mean = counts / max(1, len(picks)), chances.sum(0) / max(1, len(chances))  # [E]
        penalty = experts * (choices * mean).sum()
        call.extra[BALANCE] = call.extra.get(BALANCE, 0) + self.config.balance * penalty


class _Expert(nn.Module):
    """SwiGLU of one expert."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [m, D] -> y [m, D]."""
        gate, up = self.gate_up(x).chunk(2, -1)  # [m, F] each
        return self.down(F.silu(gate) * up)
