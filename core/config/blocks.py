"""Syntax of a stack's blocks: a token mixer and a feed-forward part, by name and by pattern.

::

    mixer: gla                                  # the usual case: every block is the same
    ffn: {name: swiglu, ratio: 3}
    blocks:                                     # or a pattern, in order
      - {mixer: gla, times: 3}                  # what an entry leaves out is the one above
      - {mixer: [attention, gla], ffn: none}    # several side by side; a block without that half
    repeat: 2                                   # the whole pattern so many times
    share: true                                 # one set of weights for each entry of the pattern
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wishbone.core.config.schema import SlotSpec, items, parse_slots, slots
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import Layers

STACK = "stack"
"""Key of the backbone that is made of such blocks."""


@dataclass
class BlockConfig:
    """Blocks of one pattern that are alike."""

    mixer: Any = slots("mixer", None)
    """Token mixer, a list of mixers side by side, or none; left out, it is the stack's."""
    ffn: Any = slots("ffn", None)
    """Feed-forward part, a list of parts side by side, or none; left out, it is the stack's."""
    times: Layers = 1
    """Number of such blocks in a row."""


@dataclass
class BlocksConfig:
    """The blocks of a stack."""

    layers: Layers = 6
    """Number of blocks where ``blocks`` is empty."""
    mixer: Any = slots("mixer", "attention")
    """Token mixer of every block, a list of mixers side by side, or none."""
    ffn: Any = slots("ffn", "swiglu")
    """Feed-forward part of every block, a list of parts side by side, or none."""
    blocks: list[Any] = items(BlockConfig)
    """Pattern of blocks, each entry a mapping of mixer, ffn and times; empty means all alike."""
    repeat: Layers = 1
    """Number of times that the pattern of ``blocks`` stands in the stack."""
    share: bool = False
    """True gives all blocks of an entry the same weights; what they remember stays their own."""


@dataclass(frozen=True)
class BlockSpec:
    """One block of a stack, parsed."""

    mixer: list[SlotSpec]
    """Token mixers side by side; [] for none."""
    ffn: list[SlotSpec]
    """Feed-forward parts side by side; [] for none."""
    entry: int
    """Number of the entry of the pattern that asks for it."""


def parse_blocks(config: BlocksConfig) -> list[BlockSpec]:
    """Return the blocks of a stack in order. Raises ``ConfigError`` where there is none."""
    pattern = config.blocks or [{"times": config.layers}]
    repeat = config.repeat if config.blocks else 1
    blocks = []
    for entry, values in enumerate(pattern):
        halves = {kind: values.get(kind) for kind in ("mixer", "ffn")}
        mixer, ffn = (
            parse_slots(getattr(config, kind) if half is None else half, kind)
            for kind, half in halves.items()
        )
        if not mixer and not ffn:
            raise ConfigError(
                "A block has neither a mixer nor a feed-forward part.",
                f"entry {entry} of the blocks of a stack" if config.blocks else "a stack",
                "Give it one of both: 'none' leaves out one half.",
            )
        blocks.append([BlockSpec(mixer, ffn, entry)] * values.get("times", 1))
    row = [block for group in blocks for block in group] * repeat
    if not row:
        raise ConfigError(
            "A stack has no block.",
            "layers, or times and repeat of the blocks",
            "Ask for one or more.",
        )
    return row
