"""RWKV-7 "Goose" (x070): arXiv 2503.14456, and RWKV-LM for what the paper leaves open.

    x = norm_in(x)
    for every block:                              its equations are in layers.py
        x = x + time_mix(norm_time(x))            reads and writes the state of earlier positions
        x = x + channel_mix(norm_channel(x))      sees one position back
    y = norm_out(x)

Vectors go in and come out; the tables of text and speech are the layout's and the head's.
``forward`` and ``step_`` are those of the generic stack; engines compute the same step faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wishbone.core.contract.backbone import Caps
from wishbone.core.contract.part import Dropout, Layers, OptionalSize, Positive, Size
from wishbone.plugins.rwkv7.engines.cuda_graph import attach
from wishbone.plugins.rwkv7.engines.native import NativeRWKV7
from wishbone.plugins.rwkv7.layers import ChannelMix, ChannelMixConfig, TimeMix, TimeMixConfig
from wishbone.plugins.stack.backbone import Preset, fields_of
from wishbone.plugins.stack.plan import Half, Plan


class RWKV7(Preset):
    """A stack of RWKV-7 blocks with a state of constant size.

    x [B, T, D] -> norm_in -> blocks -> norm_out. Under autocast the matrix products run in the
    autocast type; norms, decay, the WKV state and the residual stream stay in float32.

    State, per block i: ``blocks.i.wkv`` [B, H, V, K] float32, rows are values as in RWKV-LM;
    ``blocks.i.time_shift`` and ``blocks.i.channel_shift`` [B, D], the last normed vectors.
    """

    caps = Caps(
        streaming=True,
        constant_state=True,
        varlen=True,
        peft_targets=("receptance", "key", "value", "output"),
    )
    names = (("norm_time", "time_mix"), ("norm_channel", "channel_mix"))
    engines = {"native": NativeRWKV7, "graph": attach}

    @dataclass
    class Config:
        """Shape of an RWKV-7."""

        width: Size = 512
        """D, a multiple of head_size."""
        layers: Layers = 12
        """Number of blocks."""
        head_size: Size = 64
        """K and V of one head."""
        ffn_width: OptionalSize = 0
        """Inner width of channel mixing; 0 means 4 * width."""
        decay_rank: OptionalSize = 0
        """Rank of the decay's low-rank product; 0 means RWKV-LM's rule for this width."""
        rate_rank: OptionalSize = 0
        """Rank for a, the in-context learning rate; 0 means the rule."""
        value_rank: OptionalSize = 0
        """Rank for the share of the first block's value; 0 means the rule."""
        gate_rank: OptionalSize = 0
        """Rank for the output gate; 0 means the rule."""
        group_norm_eps: Positive = 64e-5
        """Of the norm after WKV: RWKV-LM uses this for every head size, fla head_size * 1e-5."""
        dropout: Dropout = 0.0
        """Share of each branch's output dropped in training; RWKV-LM itself uses none."""

    @classmethod
    def small_config(cls) -> Config:
        """For the contract suites: three heads, an odd inner width, more than one block."""
        return cls.Config(width=48, layers=3, head_size=16, ffn_width=112)

    @classmethod
    def planned(cls, config: Any) -> Plan:
        """Time mixing and channel mixing in every block, a norm before the first."""
        time = Half(TimeMix, fields_of(TimeMixConfig, config))
        channel = Half(ChannelMix, ChannelMixConfig(config.ffn_width))
        return Plan(
            config.width,
            ((time, channel),) * config.layers,
            tuple(range(config.layers)),
            layer_norm=True,
            norm_eps=1e-5,
            norm_in=True,
            dropout=config.dropout,
            start=False,
        )
