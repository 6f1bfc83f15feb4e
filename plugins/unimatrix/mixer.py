"""UniMatrix-Core (arXiv 2604.25930): a running mean of outer products, read by their second side.

q, k, v = tanh(W x)        rho = sigmoid(W_rho x + b)
S = rho S + (1 - rho) k v'        y = sigmoid(W_g x + b) * W_o (S q)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Size
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.kernels.recurrence import recurrence
from wishbone.plugins.matrix_memory import MatrixMixer, heads_of, start_normal
from wishbone.plugins.stack.engines.recipe import Recipe, Row


@dataclass
class UniMatrixConfig:
    """Size of a head."""

    head_size: Size = 64
    """Rows and columns of each matrix; the heads fill the width."""


class UniMatrix(MatrixMixer):
    """Rows of the matrix are those of k, columns those of v: q is matched with values."""

    Config = UniMatrixConfig
    targets = ("qkv", "gate", "output")

    def __init__(self, config: UniMatrixConfig, place: Place) -> None:
        heads = heads_of(place, config.head_size, "unimatrix")
        super().__init__(config, place, (heads, config.head_size, config.head_size))
        self.qkv = nn.Linear(place.width, 3 * place.width, bias=False)
        self.keep = nn.Linear(place.width, heads)
        self.gate = nn.Linear(place.width, place.width)
        self.output = nn.Linear(place.width, place.width, bias=False)
        self.reset_parameters()

    @classmethod
    def small_config(cls) -> UniMatrixConfig:
        """Three heads of a small width."""
        return UniMatrixConfig(head_size=16)

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state."""
        matrix, kind = state["matrix"], state["matrix"].dtype
        parts = torch.tanh(self.qkv(x)).to(kind).chunk(3, -1)  # [B, T, D] each
        q, k, v = (z.unflatten(-1, (self.shape[0], -1)) for z in parts)  # [B, T, H, S] each
        keep = self.keep(x).to(kind)  # [B, T, H]
        k = k * torch.sigmoid(-keep)[..., None]  # [B, T, H, S]
        y, matrix = recurrence(
            q, v, k, F.logsigmoid(keep), state=matrix, lengths=call.lengths
        )  # [B, T, H, S]
        y = self.output(y.flatten(2).to(x.dtype)) * torch.sigmoid(self.gate(x))  # [B, T, D]
        return y, {"matrix": matrix}

    def recipe(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``forward`` at one position."""
        row = recipe.map("tanh", recipe.linear(x, self.qkv))
        q, k, v = row.split(*[self.place.width] * 3)
        keep = recipe.linear(x, self.keep, careful=True)
        k = recipe.pair("multiply", k, recipe.map("sigmoid", keep, scale=-1.0))
        y = recipe.memory("matrix", self.shape, q, v, k, recipe.map("log_sigmoid", keep))
        gate = recipe.map("sigmoid", recipe.linear(x, self.gate))
        return recipe.pair("multiply", recipe.linear(y, self.output), gate)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as the reference code does: normal weights of deviation 0.02, biases 0."""
        start_normal(self)
