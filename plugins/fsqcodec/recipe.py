"""The options of the codec's training, ``wishbone codec-train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wishbone.core.cli.arguments import argument, option
from wishbone.core.contract.part import NonNegative, OptionalSize, Positive, Seed, Size

EXAMPLES = """examples, a code and then the sound that belongs to it:
  wishbone codec-train runs/code --audio data/anna data/ben --minutes 60
  wishbone codec-train runs/sound --audio data/anna data/ben --stage sound \\
      --start runs/code/model.safetensors --minutes 240
  wishbone codec-export runs/sound my-codec"""
BEGIN = "where it begins"
MODEL = "the model"
LOOP = "how it is trained"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train the codec on audio data, in two stages.

    Stage "code" trains encoder, quantiser and trunk on cheap targets at frame rate. Stage "sound"
    freezes the code and trains the decoder on the waveform's spectra. Language models can start on
    the tokens of the first stage while the second still runs.
    """

    out: Path = argument(metavar="OUT", help="folder of the run, without a model in it")
    audio: list[Path] = option(metavar="FOLDER", help="folders of audio data to train on")
    stage: str = option("code", choices=("code", "sound"), help="what is trained")
    hours: Positive = option(4.0, metavar="HOURS", help="audio to use, of each folder")
    start: Path | None = option(
        None, metavar="FILE", group=BEGIN, help="the model.safetensors of an earlier stage"
    )
    decoder: Path | None = option(
        None, metavar="FILE", group=BEGIN,
        help="take the decoder alone from the model.safetensors of another run",
    )  # fmt: skip
    tokenizer: list[str] = option(
        [], metavar="KEY=NUMBER", group=MODEL,
        help="settings of the speech tokenizer; with --start, it grows to them",
    )  # fmt: skip
    speaker_width: OptionalSize = option(
        0, metavar="N", group=MODEL, help="length of the speaker embedding; 0 is one voice, without"
    )
    minutes: Positive = option(20.0, metavar="MINUTES", group=LOOP, help="how long to train")
    steps: Size | None = option(
        None, metavar="N", group=LOOP, help="optimiser steps to train, instead of --minutes"
    )
    batch: Size = option(16, metavar="N", group=LOOP, help="cuts of 1.92 s in each step")
    learning_rate: Positive = option(1.5e-3, metavar="RATE", group=LOOP, help="the highest one")
    muon: NonNegative = option(
        0.0, metavar="TIMES", group=LOOP,
        help="train matrices by Muon at this many times the learning rate; 0 is AdamW for all",
    )  # fmt: skip
    phoneme_weight: NonNegative = option(
        0.6, metavar="WEIGHT", group=LOOP, help="weight of the phonemes' loss in stage code"
    )
    semantic_weight: NonNegative = option(
        0.0, metavar="WEIGHT", group=LOOP,
        help="weight, in stage code, of predicting Whisper tiny.en's encoder (extra 'ab')",
    )  # fmt: skip
    stretched: NonNegative = option(
        0.0, metavar="SHARE", group=LOOP, help="share of the cuts that are played faster or slower"
    )
    seed: Seed = option(1, metavar="N", group=LOOP, help="start of the random numbers")
