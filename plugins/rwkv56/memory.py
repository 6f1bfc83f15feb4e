"""What RWKV-5 and RWKV-6 share: a matrix a head that is read before it is written, and a bonus.

y_t = S_{t-1} r_t + (r_t . (u * k_t)) v_t        S_t = S_{t-1} diag(e^g_t) + v_t k_t'
out = W_o (GroupNorm(y) * silu(W_g x_g))         g = -exp(...), one a key channel

(arXiv 2404.05892, equations 7 and 15 to 17.) x' is the position before x; the subclasses mix it
into x in their ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.core.contract.stack.rows import last_inputs
from wishbone.kernels.recurrence import recurrence
from wishbone.plugins.matrix_memory import MatrixMixer, heads_of
from wishbone.plugins.stack.engines.recipe import Recipe, Row

EPS = 64e-5
"""Inside the norm of each head: RWKV-LM's 1e-5 after dividing by 8."""


@dataclass
class TimeMixConfig:
    """Size of a head."""

    head_size: Size = 64
    """Rows and columns of each matrix; the heads fill the width."""


class BonusMemory(MatrixMixer):
    """A mixer of this family; a subclass has ``mixed``: its inputs and its decay."""

    Config: ClassVar[type] = TimeMixConfig
    targets: ClassVar[tuple[str, ...]] = ("receptance", "key", "value", "gate", "output")

    def __init__(self, config: Any, place: Place) -> None:
        heads, size = heads_of(place, config.head_size, type(self).__name__), config.head_size
        super().__init__(config, place, (heads, size, size))
        width = place.width
        self.time_decay = nn.Parameter(torch.empty(width))
        self.bonus = nn.Parameter(torch.empty(heads, size))
        """u, RWKV-LM's time_faaaa."""
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = nn.LayerNorm(width)
        """Weight and bias of the norm over each head."""

    @classmethod
    def small_config(cls) -> Any:
        """Three heads of a small width."""
        return cls.Config(head_size=16)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros, and a position of zeros before the first."""
        shift = torch.zeros(batch, self.place.width, device=device, dtype=dtype)  # [B, D]
        return {**super().init_state(batch, device, dtype), "time_shift": shift}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        joined, shift = last_inputs(state["time_shift"][:, None], x, call.lengths)
        matrix, kind = state["matrix"], state["matrix"].dtype
        heads = self.shape[0]
        x_r, x_k, x_v, x_g, g = self.mixed(x, joined[:, :-1], kind)  # [B, T, D] each
        projected = self.receptance(x_r), self.key(x_k), self.value(x_v)  # [B, T, D] each
        r, k, v = (z.unflatten(-1, (heads, -1)).to(kind) for z in projected)  # [B, T, H, N]
        own = (r * self.bonus.to(kind) * k).sum(-1, keepdim=True) * v  # [B, T, H, N]
        # Position t reads what t - 1 left: r moves one to the left, what it read one to the right.
        first = (matrix @ r[:, 0, :, :, None])[None, ..., 0].transpose(0, 1)  # [B, 1, H, N]
        later = torch.cat([r[:, 1:], torch.zeros_like(r[:, :1])], 1)  # [B, T, H, N]
        g = g.unflatten(-1, (heads, -1))  # [B, T, H, N]
        y, matrix = recurrence(later, k, v, g, state=matrix, lengths=call.lengths)  # [B, T, H, N]
        y = torch.cat([first, y[:, :-1]], 1) + own  # [B, T, H, N]
        y = F.layer_norm(y, y.shape[-1:], eps=EPS).flatten(2)  # [B, T, D]
        y = y * self.ln_x.weight.to(kind) + self.ln_x.bias.to(kind)  # [B, T, D]
        y = y.to(x.dtype) * F.silu(self.gate(x_g))  # [B, T, D]
        return self.output(y), {"matrix": matrix, "time_shift": shift[:, 0]}

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        before = recipe.load("time_shift", x.size)
        recipe.store("time_shift", x)
        x_r, x_k, x_v, x_g, g = self.write_mixed(recipe, x, before)
        r, k = recipe.linear(x_r, self.receptance), recipe.linear(x_k, self.key)
        v = recipe.linear(x_v, self.value)
        y = recipe.memory("matrix", self.shape, r, k, v, g, bonus=self.bonus)
        norm = self.ln_x
        y = recipe.norm(
            y, norm.weight, norm.bias, kind="layer", eps=EPS, groups=self.shape[0]
        )  # fmt: skip
        y = recipe.pair("multiply", y, recipe.map("silu", recipe.linear(x_g, self.gate)))
        return recipe.linear(y, self.output)

    def write_mixed(self, recipe: Recipe, x: Row, before: Row) -> tuple[Row, ...]:
        """Write down ``mixed`` at one position."""
        raise NotImplementedError

    def mixed(self, x: Tensor, before: Tensor, kind: torch.dtype) -> tuple[Tensor, ...]:
        """x and the one before each, [B, T, D] both -> inputs of r, k, v and gate, and g."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as RWKV-LM does, after both of its stages."""
        width, place = self.place.width, self.place
        depth = place.layer / max(1, place.layers - 1)
        n = torch.arange(width, dtype=torch.float32)  # [D]
        line = n / max(1, width - 1)  # [D]
        self.time_decay.copy_(-6 + 5 * line ** (0.7 + 1.3 * depth))
        zigzag = ((n + 1) % 3 - 1) * 0.1  # [D]
        self.bonus.copy_((depth * (1 - line) + zigzag).view_as(self.bonus))
        for linear, gain in (
            (self.receptance, 1.0), (self.key, 0.1), (self.value, 1.0), (self.gate, 0.1),
        ):  # fmt: skip
            if not linear.weight.is_meta:
                nn.init.orthogonal_(linear.weight, gain=gain)
        nn.init.zeros_(self.output.weight)
        self.ln_x.reset_parameters()

    def shares(self) -> tuple[Tensor, float, float]:
        """Return n / D [D], the height of this block (1 at the bottom) and its depth (0 there)."""
        place = self.place
        n = torch.arange(place.width, dtype=torch.float32) / place.width  # [D]
        return n, 1 - place.layer / place.layers, place.layer / max(1, place.layers - 1)
