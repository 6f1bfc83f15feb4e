"""Belief read-out, an interpretation of an abstract (arXiv 2604.09671): a mean and a variance.

Position s weighs e^{k_s} and fades by e^{w} a position, as in RWKV-4. With l the logarithm of the
sum of weights, and share the part of it that is new::

    share_t = sigmoid(k_t - l_{t-1} - w)                       k, v = W_k x, W_v x
    mu_t    = mu_{t-1} + share_t (v_t - mu_{t-1})
    var_t   = (1 - share_t) (var_{t-1} + share_t (v_t - mu_{t-1})^2)
    sigma^2 = var + sigma_0^2 / (1 + e^l)                      what is not known yet
    y       = W_b [LayerNorm(mu); log sigma^2]                 W_b = 0 at first
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.core.contract.stack.rows import memory_dtype
from wishbone.kernels.linear_scan import NEVER, last_state, linear_scan, weighted_mean
from wishbone.plugins.initial_weights import start_small

LEAST = 1e-6
"""Added to the variance before its logarithm."""


@dataclass
class BeliefConfig:
    """Size of the belief."""

    size: Size = 64
    """Channels that are kept a mean and a variance of."""


class Belief(Mixer):
    """The last half of the last block: adds nothing until ``read`` has learned to.

    Leaves ``belief`` in ``call.extra``: mean and variance [B, T, E].
    """

    Config = BeliefConfig
    memory = ("belief_mean", "belief_variance", "belief_log_weight")
    targets = ("key", "value", "read")

    def __init__(self, config: BeliefConfig, place: Place) -> None:
        super().__init__(config, place)
        size = self.size = config.size
        self.key = nn.Linear(place.width, size, bias=False)
        self.value = nn.Linear(place.width, size, bias=False)
        self.decay = nn.Parameter(torch.empty(size))
        """Logarithm of -w."""
        self.prior = nn.Parameter(torch.empty(size))
        """sigma_0^2 is softplus of this."""
        self.norm = nn.LayerNorm(size)
        self.read = nn.Linear(2 * size, place.width, bias=False)
        self.reset_parameters()

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Nothing is known."""
        shape, kind = (batch, self.size), memory_dtype(dtype)
        zeros = torch.zeros(shape, device=device, dtype=kind)  # [B, E]
        nothing = torch.full(shape, NEVER, device=device, dtype=kind)  # [B, E]
        return dict(zip(self.memory, (zeros, zeros.clone(), nothing), strict=True))

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        mean, variance, weight = (state[name] for name in self.memory)  # [B, E] each
        kind = mean.dtype
        k, v = self.key(x).to(kind), self.value(x).to(kind)  # [B, T, E] each
        w = -self.decay.to(kind).exp()  # [E]
        means, weights = weighted_mean(k, v, w, (mean, weight))  # [B, T, E] each
        before = torch.cat([mean[:, None], means[:, :-1]], 1)  # [B, T, E]
        lead = torch.cat([weight[:, None], weights[:, :-1]], 1) + w - k  # [B, T, E]
        stay, share = torch.sigmoid(lead), torch.sigmoid(-lead)  # [B, T, E] each
        spread = linear_scan(stay, stay * share * (v - before).square(), variance)  # [B, T, E]
        prior = nn.functional.softplus(self.prior.to(kind))  # [E]
        total = spread + prior * torch.sigmoid(-weights)  # [B, T, E]
        call.extra["belief"] = means, total
        both = self.norm(means.to(x.dtype)), (total + LEAST).log().to(x.dtype)  # [B, T, E] each
        ends = zip((means, spread, weights), (mean, variance, weight), strict=True)
        after = [last_state(h, first, call.lengths) for h, first in ends]  # [B, E] each
        return self.read(torch.cat(both, -1)), dict(zip(self.memory, after, strict=True))

    def operations(self, context: int = 0) -> int:
        """Count mean and variance, element by element."""
        return 24 * self.size

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fade over 1 to 100 positions, prior variance 1, and read nothing."""
        start_small(self.place, self.key, self.value)
        self.decay.copy_(torch.linspace(0, -4.6, self.size))
        self.prior.fill_(0.5413)
        self.norm.reset_parameters()
        nn.init.zeros_(self.read.weight)
