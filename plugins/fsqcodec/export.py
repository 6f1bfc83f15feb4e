"""Turns a finished run into the weights that ship: ``wishbone codec-export RUN FOLDER``.

Stores the two parts of the codec, without the readers of the recipe, in float16: half the bytes,
and a rounding error a hundred times below that of the code itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wishbone.core.cli.arguments import argument, option, parse
from wishbone.core.cli.main import in_three_lines
from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.weights.checkpoint import save
from wishbone.core.weights.provenance import provenance
from wishbone.core.weights.tensor_files import read_tensors
from wishbone.plugins.fsqcodec import corpus
from wishbone.plugins.fsqcodec.decoder import FSQCodecDecoder

EXAMPLES = """examples:
  wishbone codec-export runs/sound my-codec --voice data/anna"""
RECORDINGS = 50  # their mean no longer depends on the text of one of them


def codec_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of tokenizer and decoder, in float16."""
    names = [name for name in tensors if name.startswith(("tokenizer.", "decoder."))]
    return {name: tensors[name].to(torch.float16) for name in names}


def mean_voice(settings: dict, tensors: dict[str, Tensor], folder: Path) -> Tensor:
    """The vector [E] of the voice that speaks in a folder of audio data.

    Raises ``UsageError`` for a decoder of one voice, which has no place for it.
    """
    decoder = FSQCodecDecoder(FSQCodecDecoder.Config(**settings))
    if not decoder.config.speaker_width:
        raise UsageError(
            "The decoder was trained for a single voice and has no place for another.",
            str(folder),
            "Leave out --voice, or train with --speaker-width.",
        )
    decoder.load_state_dict({name: tensors[f"decoder.{name}"] for name in decoder.state_dict()})
    groups, _ = corpus.load([folder], hours=0.1)
    embeddings = [
        decoder.hear(torch.from_numpy(item.audio).float() / 32767, torch.zeros(0))["speaker"]
        for item in groups[0][:RECORDINGS]
    ]  # [E] each
    return torch.stack(embeddings).mean(0)  # [E]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write the weights that ship from a finished run of codec-train, in float16."""

    run: Path = argument(metavar="RUN", help="the folder of a run of codec-train")
    folder: Path = argument(metavar="FOLDER", help="the new checkpoint folder")
    voice: Path | None = option(
        None, metavar="FOLDER", help="audio data of the voice to speak in where none is given"
    )


def main(argv: Sequence[str]) -> int:
    """Write a checkpoint folder from a run of ``train``; refuses to overwrite."""
    options = parse(ExportOptions, argv, "wishbone codec-export", EXAMPLES)
    trained = read_tensors(options.run / "model.safetensors")
    tensors = codec_tensors(trained)
    if not tensors:
        raise CheckpointError(
            "The run holds neither a tokenizer nor a decoder.",
            str(options.run),
            "Give the folder that 'wishbone codec-train' wrote.",
        )
    settings = json.loads((options.run / "config.json").read_text())
    if options.voice:
        tensors["decoder.voice"] = mean_voice(settings["decoder"], trained, options.voice).half()
    config = {
        "speech_tokenizer": {"name": "fsqcodec", **settings["tokenizer"]},
        "decoder": {"name": "fsqcodec", **settings["decoder"]},
    }
    history = [json.loads(line) for line in (options.run / "log.jsonl").open()]
    origin = provenance(
        config,
        data=settings.get("data", ""),
        seeds={"train": settings.get("seed", 0)},
        notes={"last": history[-1], "stages": settings.get("stages", []), "stored": "float16"},
    )
    print(save(options.folder, tensors, config, origin))
    return 0


if __name__ == "__main__":
    sys.exit(in_three_lines(main))
