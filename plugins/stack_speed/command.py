"""``wishbone stack-speed``: time of training and of a step of every token mixer beside RWKV-7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wishbone.core.cli.arguments import argument, option, parse
from wishbone.core.contract.part import Layers, Size

EXAMPLES = """examples:
  wishbone stack-speed gla mamba2 gdn
  wishbone stack-speed rwkv7 --ffn meta_state
  wishbone stack-speed hybrid-gdn-3-1 hybrid-mamba2-1-11
  wishbone stack-speed kda --length 1024 --turns 5"""


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """Time mixers in a stack of as many parameters as an RWKV-7, all in one process.

    One thread, in turn; the least processor time of the turns counts. Ratios are to the RWKV-7
    backbone: of forward and backward, and of one eager step. C++: how many times as fast that
    engine steps as the same stack's eager step. State: bytes of float32 after so many positions,
    one and sixty seconds of 25 codes.
    """

    mixers: list[str] = argument(
        metavar="MIXER", help="keys of mixers, or systems, whose backbone is timed as it is"
    )
    ffn: str = option("swiglu", metavar="KEY", help="the feed-forward part beside the mixers")
    width: Size = option(192, metavar="D", help="numbers per position")
    layers: Layers = option(6, metavar="N", help="blocks")
    length: Size = option(2048, metavar="T", help="positions of forward and backward")
    turns: Size = option(4, metavar="N", help="turns that count, after one that does not")


def main(argv: Sequence[str]) -> int:
    """Time once; returns the exit code."""
    options = parse(SpeedOptions, argv, "wishbone stack-speed", EXAMPLES)
    # after parsing, so that --help and mistakes need no torch
    from wishbone.plugins.stack_speed.measure import lines

    sizes = options.width, options.layers, options.length, options.turns
    for line in lines(options.mixers, options.ffn, *sizes):
        print(line, flush=True)
    return 0
