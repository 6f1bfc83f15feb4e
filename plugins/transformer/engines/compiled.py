"""Steps of the Transformer through ``torch.compile``: all of a block but the attention itself.

The cache grows with every step, so attention stays plain PyTorch; the rest of a block is two
graphs that serve every block, with products written as multiply and sum (see rwkv7/compiled.py).
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
from wishbone.plugins.transformer.cache import append_, plan_step

if TYPE_CHECKING:
    from wishbone.plugins.transformer.backbone import Block, Transformer

MOST = 8
"""Sequences a step takes; every number of them is compiled for itself."""

Weights = dict[str, Any]
"""Vectors, and matrices with their scales."""


class CompiledTransformer:
    """An engine (``wishbone.plugins.engines.Engine``); compiles at the first step of each batch."""

    narrow = False
    """States in bfloat16 are not taken."""

    def __init__(self, backbone: Transformer, weights: str) -> None:
        self.backbone = [backbone]  # in a list, so that it is no child of its own child
        self.eps = backbone.config.norm_eps
        self.weights = [_weights(block, weights) for block in backbone.blocks]
        self.heads = backbone.config.heads + backbone.config.kv_heads
        self.project, self.finish = compiled_halves()

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the backbone has weights of its own, so it begins as plain PyTorch."""

    def takes(self, x: Tensor, state: State) -> bool:
        """A few sequences on the CPU, in float32."""
        few = x.device.type == "cpu" and 0 < len(x) <= MOST
        kinds = {x.dtype, state["blocks.0.key"].dtype}
        return few and kinds == {torch.float32} and not torch.is_autocast_enabled("cpu")

    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D]; ``state`` gets the longer caches."""
        (backbone,) = self.backbone
        past = plan_step(x, state, backbone._angles)
        for number, (block, weights) in enumerate(zip(backbone.blocks, self.weights, strict=True)):
            names = f"blocks.{number}.key", f"blocks.{number}.value"
            attention = block.attention
            turned, value = self.project(
                x, *past.angles, weights, self.heads, attention.size, self.eps
            )
            queries, key = turned.split((attention.heads, attention.kv_heads), dim=1)
            for name, new in zip(names, (key, value), strict=True):
                state[name] = append_(state[name], new, past)
            y = attention.mixed(queries, *(state[name] for name in names), past)
            x = self.finish(x, y, weights, self.eps)
        state["length"] = past.length_after
        return backbone.norm_out(x)


@cache
def compiled_halves() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``project`` and ``finish`` behind the compiler, for all backbones of this process."""
    return torch.compile(project, dynamic=False), torch.compile(finish, dynamic=False)


def project(
    x: Tensor, cosines: Tensor, sines: Tensor, w: Weights, heads: int, size: int, eps: float
) -> tuple[Tensor, Tensor]:
    """x [B, 1, D] -> queries and keys, turned, [B, H + G, 1, K] and values [B, G, 1, K]."""
    normed = F.rms_norm(x, x.shape[-1:], w["norm_attention"], eps)[:, 0]
    qkv = multiply_sum(normed, *w["qkv"])
    if w["bias"] is not None:
        qkv = qkv + w["bias"]
    qkv = qkv.view(len(x), -1, size)
    low, high = qkv[:, :heads, : size // 2], qkv[:, :heads, size // 2 :]
    turned = torch.cat((low * cosines - high * sines, high * cosines + low * sines), dim=-1)
    return turned[:, :, None], qkv[:, heads:, None]


def finish(x: Tensor, y: Tensor, w: Weights, eps: float) -> Tensor:
    """x [B, 1, D] and what attention mixed, y [B, 1, D] -> the block's output [B, 1, D]."""
    x = x[:, 0] + multiply_sum(y[:, 0], *w["output"])
    normed = F.rms_norm(x, x.shape[-1:], w["norm_ffn"], eps)
    gate, up = multiply_sum(normed, *w["gate_up"]).chunk(2, dim=-1)
    return (x + multiply_sum(F.silu(gate) * up, *w["down"]))[:, None]


def _weights(block: Block, kind: str) -> Weights:
    bias = block.attention.qkv.bias
    return {
        "norm_attention": block.norm_attention.weight.detach().float(),
        "norm_ffn": block.norm_ffn.weight.detach().float(),
        "bias": None if bias is None else bias.detach().float(),
        "qkv": narrowed(block.attention.qkv.weight, kind),
        "output": narrowed(block.attention.output.weight, kind),
        "gate_up": narrowed(block.ffn.gate_up.weight, kind),
        "down": narrowed(block.ffn.down.weight, kind),
    }
