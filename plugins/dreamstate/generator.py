"""A generator of states: a small transformer that learns the flow from noise to states.

A token is a head's matrix in one layer, or a vector, written as numbers along its R main directions
in the states that were learned from. With s such a row of tokens, less their mean and over the
spread of each, e noise, and c what is asked for (arXiv 2210.02747, with a straight path)::

    x_t = (1 - t) e + t s            loss |d(x_t, t, c) - s|^2
    d'  = d(x, t, 0) + scale (d(x, t, c) - d(x, t, 0))
    a state is x_1 of dx/dt = (d' - x) / (1 - t) from x_0 = e

d is a DiT (arXiv 2212.09748): attention between tokens and a feed-forward part, shifted, scaled and
gated by t and c; all gates and the last layer are zero at first. c is left out of a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Count, Layers, Size

WAVES = 32
"""Sines and cosines of t each."""
NEAR = 0.02
"""What is left of the noise where the way from noise to a state ends."""
LEAST = 1e-6
"""Spread of a token that is the same in all states."""


@dataclass
class GeneratorConfig:
    """Shape of a generator, and what it generates."""

    width: Size = 128
    """Numbers of a token inside."""
    layers: Layers = 4
    """Blocks."""
    heads: Size = 4
    """Heads of attention between tokens."""
    parts: dict[str, list[int]] = field(default_factory=dict)
    """Parts of a state: name -> shape without batch, [H, V, K] or [D]."""
    labels: list[str] = field(default_factory=list)
    """Names that a state can be asked for by."""
    rank: Size = 64
    """R, directions of a token."""
    vector: Count = 0
    """Numbers of a style vector in their place; 0 for none."""
    model: str = ""
    """Fingerprint of the model whose states these are."""


class StateGenerator(nn.Module):
    """d of the equations: what state [B, P], its tokens flattened in order, is under the noise."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.mean, self.basis = nn.ParameterDict(), nn.ParameterDict()
        self.sizes: list[int] = []
        """Numbers of every token."""
        for name, shape in config.parts.items():
            heads = shape[0] if len(shape) > 1 else 1
            size = math.prod(shape) // heads
            rank = min(config.rank, size)
            self.sizes += [rank] * heads
            mean, basis = torch.zeros(heads, size), torch.zeros(heads, rank, size)
            self.mean[_key(name)] = nn.Parameter(mean, requires_grad=False)  # [H, S]
            self.basis[_key(name)] = nn.Parameter(basis, requires_grad=False)  # [H, R, S]
        self.spread = nn.Parameter(torch.ones(len(self.sizes)), requires_grad=False)  # [tokens]
        self.into = nn.ModuleDict({str(size): nn.Linear(size, width) for size in set(self.sizes)})
        self.out = nn.ModuleDict({str(size): nn.Linear(width, size) for size in set(self.sizes)})
        self.place = nn.Parameter(torch.randn(len(self.sizes), width))
        self.time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        asked = len(config.labels) or config.vector
        self.asked = nn.Linear(asked, width, bias=False) if asked else None
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.layers))
        self.last = nn.Linear(width, 2 * width)
        zero = [self.last, *self.out.values(), *(block.changes for block in self.blocks)]
        for linear in zero:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, t: Tensor, asked: Tensor | None = None) -> Tensor:
        """x [B, P], t [B], asked [B, C] or None -> state [B, P]; a row of zeros asks nothing."""
        waves = t[:, None] * torch.logspace(0, 3, WAVES, device=x.device)  # [B, WAVES]
        about = self.time(torch.cat([waves.sin(), waves.cos()], -1))  # [B, d]
        if self.asked is not None and asked is not None:
            about = about + self.asked(F.layer_norm(asked, asked.shape[-1:]))  # [B, d]
        parts = [self.into[str(part.shape[1])](part) for part in x.split(self.sizes, 1)]  # [B, d]
        tokens = torch.stack(parts, 1) + self.place  # [B, tokens, d]
        for block in self.blocks:
            tokens = block(tokens, about)  # [B, tokens, d]
        shift, scale = self.last(F.silu(about))[:, None].chunk(2, -1)  # [B, 1, d] each
        tokens = _moved(tokens, shift, scale)  # [B, tokens, d]
        pairs = zip(tokens.unbind(1), self.sizes, strict=True)
        return torch.cat([self.out[str(size)](token) for token, size in pairs], 1)  # [B, P]

    def flat(self, states: Mapping[str, Tensor]) -> Tensor:
        """States with parts [N, ...] -> rows [N, P]; what lies across all directions is lost."""
        rows = [
            torch.einsum("nhs,hrs->nhr", self._apart(name, states), self.basis[_key(name)])
            for name in self.config.parts
        ]
        return torch.cat([row.flatten(1) for row in rows], 1) / self._spreads()  # [N, P]

    def states(self, rows: Tensor) -> State:
        """Rows [N, P] -> parts [N, ...]."""
        rows, first, parts = rows * self._spreads(), 0, {}  # [N, P]
        for name, shape in self.config.parts.items():
            mean, basis = self.mean[_key(name)], self.basis[_key(name)]  # [H, S], [H, R, S]
            count = basis.shape[0] * basis.shape[1]
            row = rows[:, first : first + count].unflatten(1, basis.shape[:2])  # [N, H, R]
            part = torch.einsum("nhr,hrs->nhs", row, basis) + mean  # [N, H, S]
            parts[name], first = part.reshape(-1, *shape), first + count
        return parts

    @torch.no_grad()
    def measure(self, states: Mapping[str, Tensor]) -> None:
        """Take means, directions and spreads from the states [N, ...] that will be learned from."""
        for name in self.config.parts:
            mean, basis = self.mean[_key(name)], self.basis[_key(name)]  # [H, S], [H, R, S]
            mean.copy_((self._apart(name, states) + mean).mean(0))
            apart = self._apart(name, states).transpose(0, 1)  # [H, N, S]
            main = torch.linalg.svd(apart, full_matrices=False).Vh[:, : basis.shape[1]]  # [H, R, S]
            basis.zero_()
            basis[:, : main.shape[1]] = main
        self.spread.fill_(1.0)
        spreads = [row.square().mean().sqrt() for row in self.flat(states).split(self.sizes, 1)]
        self.spread.copy_(torch.stack(spreads).clamp_min(LEAST))

    @torch.no_grad()
    def flow(
        self, x: Tensor, asked: Tensor | None = None, *, scale: float = 1.0, steps: int = 32,
        back: bool = False,
    ) -> Tensor:  # fmt: skip
        """x [N, P] from noise to states, or ``back``; by Heun's method. ``scale`` is guidance.

        The way ends where 1 - t is ``NEAR``, in the state that d names there; ``back`` begins so.
        """
        times = torch.linspace(0, 1 - NEAR, steps + 1).tolist()
        times = times[::-1] if back else times
        for start, end in zip(times[:-1], times[1:], strict=True):
            first = self._velocity(x, start, asked, scale)  # [N, P]
            second = self._velocity(x + (end - start) * first, end, asked, scale)  # [N, P]
            x = x + (end - start) * (first + second) / 2  # [N, P]
        return x if back else x + NEAR * self._velocity(x, 1 - NEAR, asked, scale)  # [N, P]

    def _velocity(self, x: Tensor, t: float, asked: Tensor | None, scale: float) -> Tensor:
        times = torch.full((len(x),), t, device=x.device)  # [N]
        state = self(x, times, asked)  # [N, P]
        if asked is not None and scale != 1:
            state = torch.lerp(self(x, times), state, scale)  # [N, P]
        return (state - x) / (1 - t)

    def _spreads(self) -> Tensor:
        sizes = torch.tensor(self.sizes, device=self.spread.device)
        return self.spread.repeat_interleave(sizes)  # [P]

    def _apart(self, name: str, states: Mapping[str, Tensor]) -> Tensor:
        """Return the states' part [N, H, S] less its mean."""
        mean = self.mean[_key(name)]  # [H, S]
        return states[name].float().reshape(-1, *mean.shape) - mean


class _Block(nn.Module):
    """Attention between tokens and a feed-forward part, both changed by time and condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.changes = nn.Linear(width, 6 * width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, about: Tensor) -> Tensor:
        """x [B, tokens, d], about [B, d] -> [B, tokens, d]."""
        a, b, c, d, e, f = self.changes(F.silu(about))[:, None].chunk(6, -1)  # [B, 1, d] each
        qkv = self.qkv(_moved(x, a, b)).unflatten(-1, (3, self.heads, -1))  # [B, tokens, 3, h, n]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, h, tokens, n] each
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, tokens, d]
        x = x + c * self.output(y)  # [B, tokens, d]
        return x + f * self.ffn(_moved(x, d, e))


def _key(name: str) -> str:
    """Write a part's name as that of a module, which may hold no dot."""
    return name.replace(".", "-")


def _moved(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def fit(
    generator: StateGenerator, rows: Tensor, asked: Tensor | None, *, steps: int, rate: float,
    batch: int, drop: float, seed: int,
) -> list[float]:  # fmt: skip
    """Learn rows [N, P], asked [N, C] -> the loss of every step.

    The optimiser is AdamW, its rate rises over a twentieth and then falls as a cosine.
    """
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(
        (p for p in generator.parameters() if p.requires_grad), lr=rate, weight_decay=0.0
    )
    warm = max(1, steps // 20)

    def now(step: int) -> float:
        return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, now)
    losses = []
    for _ in range(steps):
        index = torch.randint(len(rows), (batch,), generator=random)
        state, noise = rows[index], torch.randn(batch, rows.shape[1], generator=random)  # [B, P]
        t = torch.rand(batch, generator=random)  # [B]
        x = torch.lerp(noise, state, t[:, None])  # [B, P]
        keep = torch.rand(batch, 1, generator=random) >= drop  # [B, 1]
        wish = None if asked is None else asked[index] * keep  # [B, C]
        loss = F.mse_loss(generator(x, t, wish), state)  # []
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses
