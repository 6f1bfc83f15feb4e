"""Schemas of RWKV-4's two halves."""

from __future__ import annotations

from dataclasses import dataclass

from wishbone.core.contract.part import OptionalSize


@dataclass
class RWKV4Config:
    """Nothing to choose: every channel is a memory of its own."""


@dataclass
class ChannelMixConfig:
    """Inner width."""

    width: OptionalSize = 0
    """Inner width F; 0 means the stack's ``ffn_width``, or four times the width without one."""
