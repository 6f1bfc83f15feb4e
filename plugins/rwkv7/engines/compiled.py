"""Steps of an RWKV-7 through ``torch.compile``: one graph for the first block, one for the others.

Blocks hand their weights in, so two graphs serve any depth; products are written as multiply and
sum, which the compiler turns into loops that read each weight once, in whatever type it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.kernels.linear import multiply_sum, narrowed
from wishbone.plugins.rwkv7.formula import DECAY

if TYPE_CHECKING:
    from wishbone.plugins.rwkv7.backbone import RWKV7
    from wishbone.plugins.rwkv7.layers import Block

NORM_EPS = 1e-5
"""Of the layer norms, as ``nn.LayerNorm`` has it."""
MOST = 8
"""Sequences a step takes; every number of them is compiled for itself."""

Matrix = tuple[Tensor, Tensor | None]
"""A weight [R, C] and, for int8, the scale of each row."""


class CompiledRWKV7:
    """An engine (``wishbone.plugins.engines.Engine``); compiles at the first step of each batch."""

    narrow = False
    """States in bfloat16 are not taken."""

    def __init__(self, backbone: RWKV7, weights: str) -> None:
        self.norm_in, self.norm_out = backbone.norm_in, backbone.norm_out
        self.heads, self.eps = backbone.shape.heads, backbone.shape.group_norm_eps
        self.vectors = [_vectors(block) for block in backbone.blocks]
        self.matrices = [_matrices(block, weights) for block in backbone.blocks]
        self.layer = compiled_layer()

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the backbone has weights of its own, so it begins as plain PyTorch."""

    def takes(self, x: Tensor, state: State) -> bool:
        """A few sequences on the CPU, in float32."""
        kinds = {x.dtype, state["blocks.0.wkv"].dtype, state["blocks.0.time_shift"].dtype}
        few = x.device.type == "cpu" and 0 < len(x) <= MOST
        return few and kinds == {torch.float32} and not torch.is_autocast_enabled("cpu")

    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D]; the entries of ``state`` are replaced by new tensors."""
        x, first = _norm(self.norm_in, x[:, 0]), None
        for i, (vectors, matrices) in enumerate(zip(self.vectors, self.matrices, strict=True)):
            names = [f"blocks.{i}.{part}" for part in ("wkv", "time_shift", "channel_shift")]
            before = [state[name] for name in names]
            x, first, *after = self.layer(x, first, before, vectors, matrices, self.heads, self.eps)
            state.update(zip(names, after, strict=True))
        return _norm(self.norm_out, x)[:, None]


@cache
def compiled_layer() -> Callable[..., Any]:
    """``layer`` behind the compiler, one for all backbones of this process."""
    return torch.compile(layer, dynamic=False)


def layer(
    x: Tensor,
    first: Tensor | None,
    before: list[Tensor],
    p: dict[str, Tensor],
    m: dict[str, Matrix],
    heads: int,
    eps: float,
) -> tuple[Tensor, ...]:
    """One block: x [B, D], v of block 0, the block's state -> x, that v, the state after.

    The formulas are those of step.py.
    """
    wkv, time_carry, channel_carry = before
    width = x.shape[-1:]
    h = F.layer_norm(x, width, p["norm_time.weight"], p["norm_time.bias"], NORM_EPS)
    out, first, wkv = _time_mix(h, first, wkv, time_carry, p, m, heads, eps)
    x = x + out
    g = F.layer_norm(x, width, p["norm_channel.weight"], p["norm_channel.bias"], NORM_EPS)
    mixed = g + (channel_carry - g) * p["channel_mix"]
    inner = torch.relu(multiply_sum(mixed, *m["channel_key"])).square()
    return x + multiply_sum(inner, *m["channel_value"]), first, wkv, h, g


def _time_mix(
    h: Tensor,
    first: Tensor | None,
    wkv: Tensor,
    carry: Tensor,
    p: dict[str, Tensor],
    m: dict[str, Matrix],
    heads: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    mixed = h[None] + (carry - h)[None] * p["mix"][:, None]
    x_r, x_w, x_k, x_v, x_a, x_g = (mixed[i] for i in range(6))
    r, k, v = (
        multiply_sum(x, *m[n]) for x, n in ((x_r, "receptance"), (x_k, "key"), (x_v, "value"))
    )
    low_w = multiply_sum(torch.tanh(multiply_sum(x_w, *m["w1"])), *m["w2"])
    low_a = multiply_sum(multiply_sum(x_a, *m["a1"]), *m["a2"])
    gate = multiply_sum(torch.sigmoid(multiply_sum(x_g, *m["g1"])), *m["g2"])
    decay = torch.exp(torch.sigmoid(low_w + p["w0"]) * -DECAY)
    a = torch.sigmoid(low_a + p["a0"])
    if first is None:
        first = v
    else:
        low_v = multiply_sum(multiply_sum(x_v, *m["v1"]), *m["v2"])
        v = v + (first - v) * torch.sigmoid(low_v + p["v0"])
    split = (len(h), heads, -1)
    direction = (k * p["k_k"]).view(split)
    direction = direction / direction.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
    k = (k * (1 + (a - 1) * p["k_a"])).view(split)
    r, value = r.view(split), v.view(split)
    removed = (wkv * -direction[:, :, None]).sum(-1)
    wkv = (
        wkv * decay.view(split)[:, :, None]
        + removed[..., None] * (direction * a.view(split))[:, :, None]
        + value[..., None] * k[:, :, None]
    )
    y = (wkv * r[:, :, None]).sum(-1)
    y = F.layer_norm(y, y.shape[-1:], eps=eps).flatten(1) * p["ln_x.weight"] + p["ln_x.bias"]
    share = (r * k * p["r_k"]).sum(-1, keepdim=True)
    y = (y + (share * value).flatten(1)) * gate
    return multiply_sum(y, *m["output"]), first, wkv


def _norm(norm: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


def _vectors(block: Block) -> dict[str, Tensor]:
    time = block.time_mix
    vectors = {name: getattr(time, name) for name in ("mix", "w0", "a0", "k_k", "k_a", "r_k")}
    if hasattr(time, "v0"):
        vectors["v0"] = time.v0
    vectors["channel_mix"] = block.channel_mix.mix[0]
    for name, norm in (
        ("norm_time", block.norm_time),
        ("norm_channel", block.norm_channel),
        ("ln_x", time.ln_x),
    ):
        vectors |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    return {name: values.detach().float() for name, values in vectors.items()}


def _matrices(block: Block, weights: str) -> dict[str, Matrix]:
    time, channel = block.time_mix, block.channel_mix
    made = {
        name: narrowed(getattr(time, name).weight, weights)
        for name in ("receptance", "key", "value", "output")
    }
    made["channel_key"] = narrowed(channel.key.weight, weights)
    made["channel_value"] = narrowed(channel.value.weight, weights)
    # As in engine.py, low-rank factors are never narrower than bfloat16.
    low = "float32" if weights == "float32" else "bfloat16"
    for name in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"):
        if hasattr(time, name):
            made[name] = narrowed(getattr(time, name).mT.contiguous(), low)
    return made
