"""RWKV-7's halves at one position, written down for stacks that mix them with other halves.

The backbone ``rwkv7`` has a C++ step of its own, which reads its weights in fewer pieces.
"""

from __future__ import annotations

from typing import Any

import torch

from wishbone.kernels.elementwise import DECAY
from wishbone.plugins.stack.engines.recipe import Recipe, Row


def write_time_mix(half: Any, recipe: Recipe, x: Row) -> Row:
    """Write down ``TimeMix.step``."""
    heads, size = half.heads, half.config.head_size
    before = recipe.load("time_shift", x.size)
    recipe.store("time_shift", x)
    x_r, x_w, x_k, x_v, x_a, x_g = (recipe.mix(x, before, mix) for mix in half.mix)
    r, k = recipe.linear(x_r, half.receptance), recipe.linear(x_k, half.key)
    v = recipe.linear(x_v, half.value)
    low = recipe.map("tanh", recipe.product(x_w, half.w1.T, careful=True))
    low = recipe.product(low, half.w2.T, half.w0, careful=True)
    g = recipe.map("sigmoid", low, factor=-DECAY)
    low = recipe.product(x_a, half.a1.T, careful=True)
    a = recipe.map("sigmoid", recipe.product(low, half.a2.T, half.a0, careful=True))
    low = recipe.map("sigmoid", recipe.product(x_g, half.g1.T, careful=True))
    gate = recipe.product(low, half.g2.T, careful=True)
    first = recipe.shared.setdefault(half.publishes[0], v)
    if half.adds_first:
        low = recipe.product(x_v, half.v1.T, careful=True)
        share = recipe.map("sigmoid", recipe.product(low, half.v2.T, half.v0, careful=True))
        v = recipe.mix(v, first, more=share)
    kappa = recipe.map("same", k, times=half.k_k)
    kappa = recipe.norm(kappa, kind="unit", eps=1e-24, groups=heads)
    # k + k (a - 1) k_a
    grown = recipe.map("same", a, plus=torch.full_like(half.k_a, -1.0), times=half.k_a)
    k = recipe.pair("add", k, recipe.pair("multiply", k, grown))
    b = recipe.pair("multiply", kappa, a)
    kappa = recipe.map("same", kappa, factor=-1.0)
    y = recipe.memory("wkv", (heads, size, size), r, k, v, g, kappa, b)
    norm = half.ln_x
    y = recipe.norm(y, norm.weight, norm.bias, kind="layer", eps=half.eps, groups=heads)
    # the sum over each head as a product: row h has the numbers of head h
    sums = torch.block_diag(*half.r_k.detach().float())  # [H, D]
    bonus = recipe.product(recipe.pair("multiply", r, k), sums, careful=True)
    y = recipe.pair("add", y, recipe.pair("multiply", v, bonus))
    return recipe.linear(recipe.pair("multiply", y, gate), half.output)


def write_channel_mix(half: Any, recipe: Recipe, x: Row) -> Row:
    """Write down ``ChannelMix.step``."""
    before = recipe.load("channel_shift", x.size)
    recipe.store("channel_shift", x)
    inner = recipe.linear(recipe.mix(x, before, half.mix[0]), half.key)
    return recipe.linear(recipe.map("squared_relu", inner), half.value)
