"""``wishbone align``, also ``wishbone data align``: recordings and their text to audio data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wishbone.core.cli.arguments import argument, option, parse
from wishbone.core.cli.bulk.parts import PartOptions, do_in_parts
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.part import Count, Finite, NonNegative, Seed, Share

if TYPE_CHECKING:
    from wishbone.plugins.aligner.align import AlignStep

LEARNING = "how the times are learned"
EXAMPLES = """examples:
  wishbone align recordings --like data/audio --out data/aligned
  wishbone align more --learned data/aligned/aligner.safetensors --out data/more --speaker anna"""


@dataclass(frozen=True, kw_only=True)
class AlignOptions(PartOptions):
    """Find the time of every word in recordings of people: recordings to audio data.

    A small network learns the sound of each phoneme from audio data whose times are known.
    """

    sources: list[str] = argument(
        metavar="SOURCE", help="folders with a metadata.tsv, or audio data to align anew"
    )
    out: str = option(metavar="FOLDER", help="folder that the audio data is written to")
    like: list[str] = option(
        [], metavar="FOLDER", group=LEARNING,
        help="learn from this audio data, in which the end of each phoneme is known",
    )  # fmt: skip
    like_hours: NonNegative = option(
        0.5, metavar="HOURS", group=LEARNING, help="audio to learn from, of each --like folder"
    )
    learned: str = option(
        "", metavar="FILE", group=LEARNING,
        help="instead of --like: the aligner.safetensors that an earlier call wrote",
    )  # fmt: skip
    steps: Count = option(
        300, metavar="N", group=LEARNING, help="optimiser steps in each round of learning"
    )
    rounds: Count = option(
        1, metavar="N", group=LEARNING,
        help="rounds of learning on the sources themselves, after the --like data",
    )  # fmt: skip
    seed: Seed = option(1, metavar="N", group=LEARNING, help="start of the random numbers")
    least: Finite = option(
        -2.0, metavar="SCORE", help="drop an utterance that fits its text worse than this"
    )
    hold_out: Share = option(
        0.0, metavar="SHARE", help="share of the texts that goes into --held-out instead"
    )
    held_out: str = option("", metavar="FOLDER", help="folder for the texts held out of training")
    tokenizer: str = option(
        "phonemes", metavar="NAME", help="the text front end that makes the words of the data"
    )
    speaker: str = option("", metavar="NAME", help="name of the voice where the source gives none")


def main(argv: Sequence[str]) -> int:
    """Align once; returns the exit code."""
    options = parse(AlignOptions, argv, "wishbone align", EXAMPLES)
    if bool(options.hold_out) != bool(options.held_out):
        raise UsageError(
            "What is held out needs a share and a folder.",
            "--hold-out, --held-out",
            "Give both, or neither.",
        )
    if bool(options.like) == bool(options.learned):
        raise UsageError(
            "There is nothing to learn from, or nothing left to learn.",
            "--like, --learned",
            "Give one of them.",
        )
    return do_in_parts(options, ["align", *argv], lambda: _step(options), _do_part)


def _step(options: AlignOptions) -> AlignStep:
    # after parsing, so that --help and mistakes need no torch
    from wishbone.plugins.aligner.align import align_step

    return align_step(
        options.sources,
        options.out,
        options.like,
        like_hours=options.like_hours,
        steps=options.steps,
        rounds=options.rounds,
        least=options.least,
        hold_out=options.hold_out,
        held_out=options.held_out,
        tokenizer=options.tokenizer,
        speaker=options.speaker,
        seed=options.seed,
        learned=options.learned,
    )


def _do_part(step: Any, part: int, parts: int) -> int:
    from wishbone.plugins.aligner.align import align_part_of

    align_part_of(step, part, parts)
    return 0
