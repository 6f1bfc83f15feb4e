"""``wishbone dreamstate``: states of voices, learned, drawn and moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wishbone.core.cli.arguments import argument, option, parse_subcommand
from wishbone.core.contract.part import Finite, Layers, Positive, Seed, Share, Size

EXAMPLES = """examples:
  wishbone dreamstate train VOICES --out runs/dream --system quickstart-rwkv7 --by label
  wishbone dreamstate sample runs/dream --out new.yaml --system quickstart-rwkv7 --label calm
  wishbone dreamstate edit a.yaml --towards b.yaml --amount 0.5 --out ab.yaml
  wishbone dreamstate edit a.yaml --towards calm.yaml --from tense.yaml --out calmer.yaml"""
SYSTEM = "quickstart-rwkv7"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Learn the states of the voices in a folder.

    Taken is the state that a voice begins with, where it was learned, else that after its prompt.
    """

    voices: str = argument(metavar="VOICES", help="a folder of voices; folders in it are labels")
    out: str = option(metavar="FOLDER", help="folder that the generator is written to")
    system: str = option(SYSTEM, metavar="NAME", help="whose states: name or YAML file")
    by: str = option(
        "none", choices=("none", "label", "speaker"),
        help="what a state can be asked for by: its folder, or the vector of its speaker",
    )  # fmt: skip
    vectors: bool = option(False, help="learn parts that are vectors, too")
    steps: Size = option(2000, metavar="N", help="optimiser steps")
    rate: Positive = option(1e-3, metavar="RATE", help="highest learning rate")
    batch: Size = option(16, metavar="N", help="states of a step, drawn with return")
    drop: Share = option(0.1, metavar="SHARE", help="states that are learned unasked")
    width: Size = option(128, metavar="D", help="numbers of a token")
    layers: Layers = option(4, metavar="N", help="blocks")
    heads: Size = option(4, metavar="N", help="heads, of which the width is a multiple")
    rank: Size = option(64, metavar="R", help="main directions of a token, at most")
    seed: Seed = option(1, metavar="N", help="start of the random numbers")


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Draw a state and save it as a voice."""

    generator: str = argument(metavar="FOLDER", help="what 'train' wrote")
    out: str = option(metavar="VOICE", help="the voice that is written, ending in .yaml")
    system: str = option(SYSTEM, metavar="NAME", help="the system it was trained with")
    label: str = option("", metavar="LABEL", help="ask for this label")
    style: str = option("", metavar="VOICE", help="ask for the speaker of this voice")
    like: str = option("", metavar="VOICE", help="let the decoder hear what it hears of this voice")
    scale: Finite = option(1.0, metavar="SCALE", help="guidance; 1 is none")
    flow: Size = option(32, metavar="N", help="steps from noise to a state")
    seed: Seed = option(1, metavar="N", help="start of the random numbers")
    licence: str = option("", metavar="TEXT", help="of the voices it was learned from")


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """Move a voice's state: A + amount * (TOWARDS - FROM), where FROM is A by default.

    An amount of 0.5 is then the middle of two voices. With a generator all is done on the noise
    that its flow makes of states.
    """

    voice: str = argument(metavar="A", help="the voice that is moved")
    towards: str = option(metavar="VOICE", help="where to")
    away: str = option("", "--from", metavar="VOICE", help="where from (default: A)")
    amount: Finite = option(0.5, metavar="AMOUNT", help="how far; 1 is all the way")
    out: str = option(metavar="VOICE", help="the voice that is written, ending in .yaml")
    system: str = option(SYSTEM, metavar="NAME", help="the voices' system")
    generator: str = option("", metavar="FOLDER", help="move in the noise of this generator")
    vectors: bool = option(False, help="move parts that are vectors, too")
    flow: Size = option(32, metavar="N", help="steps from noise to a state")
    licence: str = option("", metavar="TEXT", help="of the voice that is written")


SUBCOMMANDS = {"train": TrainOptions, "sample": SampleOptions, "edit": EditOptions}


def main(argv: Sequence[str]) -> int:
    """Run one of the three; returns the exit code."""
    description = "Generate states that a voice begins with (DREAMSTATE)."
    options = parse_subcommand(argv, "wishbone dreamstate", description, SUBCOMMANDS, EXAMPLES)
    # after parsing, so that --help and mistakes need no torch
    from wishbone.plugins.dreamstate import work

    run = {TrainOptions: work.train, SampleOptions: work.sample, EditOptions: work.edit}
    print(run[type(options)](options))
    return 0
