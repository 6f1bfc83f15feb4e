"""What mixers with a matrix for memory share: heads, the short convolution, norms per head."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.stack.mixer import Mixer, Place
from wishbone.core.contract.stack.rows import last_inputs, memory_dtype
from wishbone.kernels.convolution import causal_convolution
from wishbone.plugins.stack.engines.recipe import Recipe, Row

SLOWEST, FASTEST = 1e-3, 1e-1
"""Range of the first step sizes of Mamba-2, Gated DeltaNet and KDA."""

WKV = "wkv"
"""Name in ``Call.shared`` of a ``Memory``, that of the last mixer which offers one."""


class Memory(NamedTuple):
    """What a mixer does to its matrices: S = S diag(exp g) + (S a) b' + v k' at every position."""

    r: Tensor
    """[B, T, H, K], what the mixer itself reads with."""
    g: Tensor
    """[B, T, H, K], logarithm of the decay."""
    k: Tensor
    """[B, T, H, K]."""
    v: Tensor
    """[B, T, H, V]."""
    a: Tensor
    """[B, T, H, K]."""
    b: Tensor
    """[B, T, H, K]."""
    before: Tensor
    """[B, H, V, K], S before the first position."""


class MatrixMixer(Mixer):
    """A mixer that remembers one matrix [V, K] a head, and the inputs of a convolution if any."""

    memory: ClassVar[tuple[str, ...]] = ("matrix",)

    def __init__(
        self, config: Any, place: Place, shape: tuple[int, int, int], channels: int = 0
    ) -> None:
        """``shape`` is (H, V, K). ``channels`` are those of the convolution, W inputs each."""
        super().__init__(config, place)
        self.shape = shape
        width = getattr(config, "convolution", 0)
        self.conv = ShortConvolution(channels, width) if channels and width else None

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """All zeros."""
        shape, kind = (batch, *self.shape), memory_dtype(dtype)
        state = {"matrix": torch.zeros(shape, device=device, dtype=kind)}
        if self.conv is not None:
            channels, width = self.conv.weight.shape
            shape = batch, width - 1, channels
            state["conv"] = torch.zeros(shape, device=device, dtype=dtype)
        return state

    def convolved(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """x [B, T, C] -> silu of its convolution, and the state it leaves; x itself without one."""
        if self.conv is None:
            return x, {}
        x, after = self.conv(x, state["conv"], lengths)  # [B, T, C]
        return x, {"conv": after}

    def write_convolved(self, recipe: Recipe, x: Row) -> Row:
        """Write down ``convolved`` at one position."""
        if self.conv is None:
            return x
        return recipe.convolution(x, "conv", self.conv.weight, self.conv.bias)

    def operations(self, context: int = 0) -> int:
        """Count decay, writing and reading of every number, and the convolution."""
        return 6 * math.prod(self.shape) + (2 * self.conv.weight.numel() if self.conv else 0)


class ShortConvolution(nn.Module):
    """silu of a causal convolution, each channel by itself."""

    def __init__(self, channels: int, width: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def forward(self, x: Tensor, before: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, T, C], before [B, W - 1, C] -> y [B, T, C] and ``before`` of the next call."""
        joined, after = last_inputs(before, x, lengths)  # [B, W - 1 + T, C], [B, W - 1, C]
        weight = self.weight.to(x.dtype)  # [C, W]
        bias = None if self.bias is None else self.bias.to(x.dtype)  # [C]
        if x.shape[1] == 1:
            y = (joined * weight.T).sum(1, keepdim=True)  # [B, 1, C]
            y = y if bias is None else y + bias  # [B, 1, C]
        else:
            y = causal_convolution(joined, weight, bias)  # [B, T, C]
        return F.silu(y), after

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as torch's Conv1d does, like all released models."""
        bound = self.weight.shape[1] ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)


def heads_of(place: Place, size: int, mixer: str) -> int:
    """Return the heads of ``size`` that fill the width. Raises ``ConfigError``."""
    if place.width % size:
        raise ConfigError(
            f"Width {place.width} is not a multiple of head size {size}.",
            f"the mixer {mixer}",
            "Change width or head_size so that the heads fill the width.",
        )
    return place.width // size


def unit(x: Tensor) -> Tensor:
    """x [..., K] of length about 1, as transformers and fla do it; ``F.normalize`` differs."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def step_bias(shape: tuple[int, ...]) -> Tensor:
    """Draw biases b [shape] with softplus(b) log-uniform from 0.001 to 0.1."""
    dt = torch.rand(shape).mul(math.log(FASTEST / SLOWEST)).exp().mul(SLOWEST).clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


@torch.no_grad()
def start_normal(module: nn.Module, spread: float = 0.02) -> None:
    """Draw the weights of all linear layers of ``module`` with this deviation; biases are 0."""
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.normal_(linear.weight, std=spread)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
