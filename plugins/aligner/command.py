"""``wishbone data align``: recordings of people and their text to audio data."""

from __future__ import annotations

from collections.abc import Sequence

from wishbone.core.cli.arguments import Parser
from wishbone.core.contract.errors import UsageError
from wishbone.plugins.aligner.align import align


def main(argv: Sequence[str]) -> int:
    """Align with the words after ``wishbone data align``. Raises ``UsageError``."""
    options = _parser().parse_args(argv)
    if bool(options.hold_out) != bool(options.held_out):
        raise UsageError(
            "Holding texts out needs a share and a folder.",
            "--hold-out, --held-out",
            "Give both, or neither.",
        )
    if bool(options.like) == bool(options.learned):
        raise UsageError(
            "There is nothing to learn from, or nothing left to learn.",
            "--like, --learned",
            "Give one of them.",
        )
    align(
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
    return 0


def _parser() -> Parser:
    parser = Parser("wishbone data align", description=__doc__)
    parser.add_argument(
        "sources", nargs="+", help="folders with metadata.tsv, or audio data to align again"
    )
    parser.add_argument("--out", required=True, help="folder for the audio data")
    parser.add_argument(
        "--like", nargs="+", default=[], help="audio data with phoneme ends, to learn from"
    )
    parser.add_argument(
        "--learned", default="", help="aligner.safetensors of an earlier call, instead of --like"
    )
    parser.add_argument(
        "--like-hours", type=float, default=0.5, help="hours to use of each folder of --like"
    )
    parser.add_argument("--steps", type=int, default=300, help="training steps of every round")
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds of training with the sources as aligned"
    )
    parser.add_argument(
        "--least", type=float, default=-2.0, help="lowest score of a recording that is kept"
    )
    parser.add_argument(
        "--hold-out", type=float, default=0.0, help="share of the texts to hold out"
    )
    parser.add_argument("--held-out", default="", help="folder for the held-out texts")
    parser.add_argument("--tokenizer", default="phonemes", help="front end that makes the words")
    parser.add_argument("--speaker", default="", help="name where the source has none")
    parser.add_argument("--seed", type=int, default=1)
    return parser
