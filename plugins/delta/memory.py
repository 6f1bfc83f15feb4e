"""What the three delta rules share: projections, convolution, unit keys, the strength of writing.

q, k, v = silu(convolution(W x))        q^, k^ of length 1, q^ scaled by K^-1/2
S~ = S diag(e^g)                         g is what differs: 0, one a head, one a channel
S = S~ + beta (v - S~ k^) k^'            beta = sigmoid(W_b x)
y = W_o (RMSNorm(S q^) * gate)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import OptionalSize, Size
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.kernels.recurrence import recurrence
from wishbone.plugins.matrix_memory import MatrixMixer, heads_of, start_normal, unit
from wishbone.plugins.stack.engines.recipe import Recipe, Row


@dataclass
class DeltaConfig:
    """Sizes."""

    head_size: Size = 64
    """K, numbers of a key; the heads fill the width."""
    convolution: OptionalSize = 4
    """Positions that the convolution of q, k and v sees; 0 for none, and no silu."""


@dataclass
class GroupedConfig(DeltaConfig):
    """Sizes, where several heads of values may share a key."""

    value_heads: OptionalSize = 0
    """H, a multiple of the heads of keys; 0 means as many."""
    value_size: OptionalSize = 0
    """V, numbers of a value; 0 means head_size."""


class DeltaMemory(MatrixMixer):
    """A mixer of this family; a subclass has the decay and the gate."""

    Config: ClassVar[type] = DeltaConfig
    targets: ClassVar[tuple[str, ...]] = ("qkv", "output")
    vectors: ClassVar[tuple[str, ...]] = ("conv.weight",)
    eps: ClassVar[float] = 1e-6
    """Added to the mean square in the norm of what is read."""

    def __init__(self, config: Any, place: Place) -> None:
        keys = heads_of(place, config.head_size, type(self).__name__)
        heads = getattr(config, "value_heads", 0) or keys
        values = getattr(config, "value_size", 0) or config.head_size
        if heads % keys:
            raise ConfigError(
                f"{heads} heads of values cannot share {keys} keys evenly.",
                f"the mixer {type(self).__name__}",
                "Make value_heads a multiple of width / head_size.",
            )
        self.sizes = (place.width, place.width, heads * values)
        super().__init__(config, place, (heads, values, config.head_size), sum(self.sizes))
        self.qkv = nn.Linear(place.width, sum(self.sizes), bias=False)
        self.rate = nn.Linear(place.width, heads, bias=False)
        """Strength of writing."""
        self.norm = nn.RMSNorm(values, eps=self.eps)
        self.output = nn.Linear(heads * values, place.width, bias=False)

    @classmethod
    def small_config(cls) -> Any:
        """Heads that fit a small width."""
        return cls.Config(head_size=12)

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        qkv, after = self.convolved(self.qkv(x), state, call.lengths)  # [B, T, 2 D + H V]
        matrix, kind = state["matrix"], state["matrix"].dtype
        heads, values, size = self.shape
        q, k, v = qkv.to(kind).split(self.sizes, -1)  # [B, T, D] twice, [B, T, H V]
        q = unit(q.unflatten(-1, (-1, size))) * size**-0.5  # [B, T, H', K]
        k = unit(k.unflatten(-1, (-1, size)))  # [B, T, H', K]
        rate = torch.sigmoid(self.rate(x).to(kind))[..., None]  # [B, T, H, 1]
        v = v.unflatten(-1, (heads, values)) * rate  # [B, T, H, V]
        if heads > k.shape[2]:
            q, k = (z.repeat_interleave(heads // z.shape[2], 2) for z in (q, k))  # [B, T, H, K]
        g = self.decay(x, kind)  # None, [B, T, H] or [B, T, H, K]
        a = -k  # [B, T, H, K]
        if g is not None:
            # The state decays before it is corrected.
            a = a * torch.exp(g if g.ndim == 4 else g[..., None])  # [B, T, H, K]
        y, matrix = recurrence(q, k, v, g, a, k * rate, matrix, call.lengths)  # [B, T, H, V]
        y = self.gated(F.rms_norm(y, (values,), self.norm.weight.to(kind), self.eps), x)
        return self.output(y.flatten(2).to(x.dtype)), {"matrix": matrix, **after}

    def decay(self, x: Tensor, kind: torch.dtype) -> Tensor | None:
        """x [B, T, D] -> logarithm of the decay, [B, T, H] or [B, T, H, K]; None for none."""
        return None

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """y [B, T, H, V] read from the state, x [B, T, D] -> y times a gate of x."""
        return y

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        heads, _, size = self.shape
        q, k, v = self.write_convolved(recipe, recipe.linear(x, self.qkv)).split(*self.sizes)
        groups = q.size // size
        q = recipe.norm(q, kind="unit", eps=1e-6, groups=groups, factor=size**-0.5)
        k = recipe.norm(k, kind="unit", eps=1e-6, groups=groups)
        if heads > groups:
            q, k = (recipe.repeat(z, size, heads // groups) for z in (q, k))
        rate = recipe.map("sigmoid", recipe.linear(x, self.rate, careful=True))
        g = self.write_decay(recipe, x)
        a = recipe.map("same", k, factor=-1.0)
        if g is not None:
            a = recipe.pair("multiply", a, recipe.map("exp", g))
        v, b = recipe.pair("multiply", v, rate), recipe.pair("multiply", k, rate)
        y = recipe.memory("matrix", self.shape, q, k, v, g, a, b)
        y = recipe.norm(y, self.norm.weight, eps=self.eps, groups=heads)
        return recipe.linear(self.write_gated(recipe, y, x), self.output)

    def write_decay(self, recipe: Recipe, x: Row) -> Row | None:
        """Write down ``decay`` at one position."""
        return None

    def write_gated(self, recipe: Recipe, y: Row, x: Row) -> Row:
        """Write down ``gated`` at one position."""
        return y

    def operations(self, context: int = 0) -> int:
        """Count the correction, too."""
        heads, values, keys = self.shape
        return super().operations(context) + 4 * heads * values * keys

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the models of fla do: normal weights of deviation 0.02."""
        start_normal(self)
        nn.init.ones_(self.norm.weight)
        if self.conv is not None:
            self.conv.reset_parameters()
