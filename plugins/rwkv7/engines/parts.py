"""The parts of the backbone ``rwkv7`` that its engines read, by name."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from wishbone.plugins.engines import Engine
from wishbone.plugins.rwkv7.layers import ChannelMix, TimeMix


class Block(Protocol):
    """The parts of a block that an engine reads."""

    norm_time: nn.LayerNorm
    time_mix: TimeMix
    norm_channel: nn.LayerNorm
    channel_mix: ChannelMix


class Stack(Protocol):
    """The parts of the backbone that an engine reads."""

    config: Any
    width: int
    norm_in: nn.LayerNorm
    blocks: nn.ModuleList
    """``Block`` each."""
    norm_out: nn.LayerNorm
    _engine: Engine | None
