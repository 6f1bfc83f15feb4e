"""A Transformer's blocks with RWKV-7's time mixing where attention was (ARWKV, arXiv 2501.15570).

Norms, feed-forward parts and their names are those of ``wishbone.plugins.transformer``, so that a
trained Transformer's fit as they are; the time mixing is that of ``wishbone.plugins.rwkv7``, with
its kernels. ``README.md`` tells in what it differs from the published ARWKV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wishbone.core.contract.backbone import Backbone, Caps
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import Dropout, Layers, OptionalSize, Positive, Size
from wishbone.plugins.ffn.swiglu import SwiGLU, SwiGLUConfig
from wishbone.plugins.rwkv7.layers import TimeMix, TimeMixConfig
from wishbone.plugins.stack.backbone import Preset, fields_of
from wishbone.plugins.stack.plan import Half, Plan
from wishbone.plugins.transformer.backbone import Transformer
from wishbone.plugins.transformer.layers import Attention


@dataclass
class ARWKVConfig:
    """Shape of the stack; ``width``, ``layers``, ``ffn_width``, ``norm_eps`` are the teacher's."""

    width: Size = 256
    """D, a multiple of head_size."""
    layers: Layers = 6
    """Number of blocks."""
    ffn_width: Size = 768
    """Inner width of the feed-forward part."""
    norm_eps: Positive = 1e-6
    """Added to the mean square inside every RMSNorm."""
    head_size: Size = 64
    """K and V of one head of time mixing; the teacher's heads may have another size."""
    decay_rank: OptionalSize = 0
    """Rank of the decay's low-rank product; 0 means RWKV-LM's rule for this width."""
    rate_rank: OptionalSize = 0
    """Rank for a, the in-context learning rate; 0 means the rule."""
    value_rank: OptionalSize = 0
    """Rank for the share of the first block's value; 0 means the rule."""
    gate_rank: OptionalSize = 0
    """Rank for the output gate; 0 means the rule."""
    group_norm_eps: Positive = 64e-5
    """Of the norm after WKV."""
    dropout: Dropout = 0.0
    """Probability of dropping a number of a residual branch in training."""


class ARWKV(Preset):
    """RMSNorm, time mixing and SwiGLU in pre-norm blocks; a state of constant size.

    State, per block i: ``blocks.i.wkv`` [B, H, V, K] float32 and ``blocks.i.time_shift`` [B, D],
    as in ``RWKV7``; the feed-forward part sees one position and remembers nothing.
    """

    Config = ARWKVConfig
    caps = Caps(
        constant_state=True,
        peft_targets=("receptance", "key", "value", "output", "ffn.gate_up", "ffn.down"),
    )
    names = (("norm_attention", "time_mix"), ("norm_ffn", "ffn"))

    @classmethod
    def small_config(cls) -> ARWKVConfig:
        """For the contract suites: three heads, and an inner width that is no multiple of them."""
        return ARWKVConfig(width=48, layers=3, head_size=16, ffn_width=112)

    @classmethod
    def planned(cls, config: Any) -> Plan:
        """Time mixing as RWKV-LM starts it, the feed-forward part as the Transformer does."""
        time = Half(TimeMix, fields_of(TimeMixConfig, config))
        ffn = Half(SwiGLU, SwiGLUConfig(config.ffn_width))
        return Plan(
            config.width,
            ((time, ffn),) * config.layers,
            tuple(range(config.layers)),
            norm_eps=config.norm_eps,
            dropout=config.dropout,
            start=False,
        )

    def inherit(self, other: Backbone) -> None:
        """Take over a Transformer's norms and feed-forward parts, and start from its projections.

        Receptance, key, value and output begin as its queries, keys, values and output (RADLADS,
        arXiv 2505.03005, section 3); keys and values that heads share are repeated, rotation and
        biases have no counterpart. Raises ``ConfigError`` where the stacks differ in shape.
        """
        if isinstance(other, Transformer):
            _check_same_shape(self.config, other)
            for block, source in zip(self.blocks, other.blocks, strict=True):
                _start(block.time_mix, source.attention)
        super().inherit(other)


def _check_same_shape(config: ARWKVConfig, other: Transformer) -> None:
    fields = ("width", "layers", "ffn_width", "norm_eps")
    pairs = [(name, getattr(config, name), getattr(other.config, name)) for name in fields]
    differ = [
        f"{name} {value}, the Transformer's {other_value}"
        for name, value, other_value in pairs
        if value != other_value
    ]
    if differ:
        raise ConfigError(
            f"The arwkv backbone has {'; '.join(differ)}, so its blocks cannot be taken over.",
            "the backbone slot of the student",
            "Give the student the teacher's values.",
        )


@torch.no_grad()
def _start(time: TimeMix, attention: Attention) -> None:
    """Copy an attention's projections; keys and values that heads share are repeated."""
    heads, kv_heads, size = attention.heads, attention.kv_heads, attention.size
    sizes = (heads * size, kv_heads * size, kv_heads * size)
    queries, keys, values = attention.qkv.weight.split(sizes)  # [H K, D], [G K, D], [G K, D]
    time.receptance.weight.copy_(queries)
    for target, shared in ((time.key, keys), (time.value, values)):
        per_group = shared.unflatten(0, (kv_heads, size))  # [G, K, D]
        per_head = per_group.repeat_interleave(heads // kv_heads, 0)  # [H, K, D]
        target.weight.copy_(per_head.flatten(0, 1))
    time.output.weight.copy_(attention.output.weight)
