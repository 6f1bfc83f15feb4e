"""From a finished run to the weights that ship: ``python -m wishbone.plugins.fsqcodec.export``.

Keeps the two parts of the codec, leaves the readers of the recipe behind, and stores float16: half
the bytes, and a rounding error a hundred times below that of the code itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from wishbone.core import weights
from wishbone.core.errors import CheckpointError


def kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of tokenizer and decoder, in float16."""
    names = [name for name in tensors if name.startswith(("tokenizer.", "decoder."))]
    return {name: tensors[name].to(torch.float16) for name in names}


def main(argv: list[str] | None = None) -> None:
    """Write a checkpoint folder from a run of ``train``; refuses to overwrite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run of wishbone.plugins.fsqcodec.train")
    parser.add_argument("folder", type=Path, help="new checkpoint folder")
    options = parser.parse_args(argv)
    tensors = kept(weights.read_tensors(options.run / "model.safetensors"))
    if not tensors:
        raise CheckpointError(
            "The run holds neither a tokenizer nor a decoder.",
            str(options.run),
            "Give the folder that 'python -m wishbone.plugins.fsqcodec.train' wrote.",
        )
    settings = json.loads((options.run / "config.json").read_text())
    config = {
        "speech_tokenizer": {"name": "fsqcodec", **settings["tokenizer"]},
        "decoder": {"name": "fsqcodec", **settings["decoder"]},
    }
    history = [json.loads(line) for line in (options.run / "log.jsonl").open()]
    origin = weights.provenance(
        config,
        data=settings.get("data", ""),
        seeds={"train": settings.get("seed", 0)},
        notes={"last": history[-1], "stages": settings.get("stages", []), "stored": "float16"},
    )
    print(weights.save(options.folder, tensors, config, origin))


if __name__ == "__main__":
    main()
