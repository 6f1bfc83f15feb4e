"""The engine "native" of heads: the product with the table of codes in C++.

Checked against the head in float64 by ``tests/plugins/test_heads.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wishbone.kernels.linear import Native, threads

MOST = 16
"""Vectors at once; beyond, PyTorch's matrix product reads the table fewer times."""

Product = Callable[[Tensor], Tensor]
"""x [B, C] float32 -> x W^T [B, R]."""
Layer = tuple[Tensor, Tensor | None, str]
"""A weight [R, C], a bias [R] or None, and the type to keep the weight in."""


class FastLayers:
    """Linear layers one after another for a few float32 vectors on the CPU, without gradient."""

    def __init__(self, layers: list[Layer], product: Callable[[Tensor, str], Product]) -> None:
        self.width = layers[0][0].shape[1]
        self.steps = [
            (product(weight.detach(), kind), None if bias is None else bias.detach().float())
            for weight, bias, kind in layers
        ]

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the head has weights of its own, so it begins as plain PyTorch."""

    def takes(self, hidden: Tensor) -> bool:
        """Return whether it can do this call; plain PyTorch does the others."""
        return (
            hidden.device.type == "cpu"
            and hidden.dtype in (torch.float32, torch.bfloat16)
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and 0 < hidden.numel() <= MOST * self.width
        )

    def __call__(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> [..., R] in the type of hidden."""
        x = hidden.reshape(-1, self.width).float()  # [B, D]
        for product, bias in self.steps:
            x = product(x)  # [B, R]
            if bias is not None:
                x = x + bias  # [B, R]
        return x.reshape(*hidden.shape[:-1], -1).to(hidden.dtype)


def native_layers(layers: list[Layer]) -> FastLayers:
    """Pack the layers for C++. Raises ``NativeMissing``."""
    native, team = Native(build=True), threads()

    def product(weight: Tensor, kind: str) -> Product:
        packed = native.pack(weight, kind)
        return lambda x: native.times(packed, x, team)

    return FastLayers(layers, product)
