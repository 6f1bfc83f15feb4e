"""``wishbone evaluate``: measure recordings, a system, a codec, or how a model minds its text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wishbone.core.cli.arguments import parse_subcommand
from wishbone.core.cli.evaluation.evaluate_options import (
    AudioOptions,
    BindingOptions,
    CalibrationOptions,
    CodecOptions,
    ContaminationOptions,
    DriftOptions,
    EndingsOptions,
    PeersOptions,
    ShortOptions,
    SpeechOptions,
    StatePrecisionOptions,
    VoicesOptions,
)
from wishbone.core.cli.main import run_command

EXAMPLES = """examples:
  wishbone evaluate speech quickstart-rwkv7 --limit 20
  wishbone evaluate speech runs/mine/export --errors-above 2 --json figures.json
  wishbone evaluate speech quickstart-rwkv7 --text configs/ab/prompts-en-kinds.tsv --limit 70
  wishbone evaluate codec quickstart --peers
  wishbone evaluate audio recordings --text sentences.txt --voice me.wav
  wishbone evaluate audio spoken/audio --text list.txt --out judged --executor local:4
  wishbone evaluate voices mine.yaml anna=data/anna ben=data/ben --right-least 0.95
  wishbone evaluate drift quickstart-rwkv7 --minutes 10 --out long.flac
  wishbone evaluate endings quickstart-rwkv7 --seeds 20 --failures-most 0
  wishbone evaluate short quickstart-rwkv7 --voice own --voice kathleen
  wishbone evaluate peers --limit 50 --out peers
  wishbone evaluate binding quickstart-rwkv7 data/tokens
  wishbone evaluate contamination configs/ab/prompts-en-kinds.tsv
  wishbone evaluate state-precision quickstart-rwkv7 data/tokens
  wishbone evaluate calibration --trials 200"""
SUBCOMMANDS = {
    "speech": SpeechOptions,
    "codec": CodecOptions,
    "audio": AudioOptions,
    "voices": VoicesOptions,
    "drift": DriftOptions,
    "endings": EndingsOptions,
    "short": ShortOptions,
    "peers": PeersOptions,
    "binding": BindingOptions,
    "contamination": ContaminationOptions,
    "state-precision": StatePrecisionOptions,
    "calibration": CalibrationOptions,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    description = "Measure recordings, a system's speech, a codec, or how a model minds its text."
    options = parse_subcommand(words, "wishbone evaluate", description, SUBCOMMANDS, EXAMPLES)
    if isinstance(options, CodecOptions) and options.peers:
        return run_command("codec-peers", [word for word in words[1:] if word != "--peers"])
    # after parsing, so that --help and mistakes need no torch
    from wishbone.core.cli.evaluation.evaluations import RUN, judge_audio_in_parts

    if isinstance(options, AudioOptions) and (options.out or options.executor or options.part):
        return judge_audio_in_parts(options, words)
    return RUN[type(options)](options)
