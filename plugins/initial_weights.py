"""Starts that several mixers share, where a paper gives none of its own."""

from __future__ import annotations

import torch
from torch import nn

from wishbone.core.contract.stack.mixer import Place


@torch.no_grad()
def start_small(place: Place, *inner: nn.Linear, output: nn.Linear | None = None) -> None:
    """Draw normal weights of standard deviation sqrt(2 / 5D) (arXiv 1910.05895, section 2.2).

    ``output`` adds to the residual stream and gets weights smaller by sqrt(2 layers), as in GPT-2.
    Biases become zero.
    """
    spread = (2 / (5 * place.width)) ** 0.5
    for linear in inner:
        nn.init.normal_(linear.weight, std=spread)
    if output is not None:
        nn.init.normal_(output.weight, std=spread / (2 * place.layers) ** 0.5)
    for linear in (*inner, output):
        if linear is not None and linear.bias is not None:
            nn.init.zeros_(linear.bias)
