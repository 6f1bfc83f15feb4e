"""The same random weights in every contender's format, made once for a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.registry.loader import registry
from wishbone.plugins.bench_peers.gguf import write_gguf


def write_checkpoints(folder: Path, model: Mapping[str, Any], files: Iterable[str]) -> None:
    """Write ``files`` (model.safetensors, model.pth, model-f16.gguf, ...) into ``folder``.

    ``model`` holds the slot of the backbone (``rwkv7``), the size of the vocabulary and a seed.
    """
    from wishbone.core.weights.files import write_tensors

    folder.mkdir(parents=True, exist_ok=True)
    tensors, config = random_model(model)
    converter = registry().get("converter", "rwkv-lm")()
    named: dict[str, Tensor] | None = None
    for file in sorted(set(files)):
        path = folder / file
        if path.suffix == ".safetensors":
            write_tensors(path, tensors)
        elif path.suffix == ".pth":
            converter.write(tensors, config, path)
        else:
            named = converter.theirs(tensors) if named is None else named
            write_gguf(path, named, path.stem.rpartition("-")[2])


def random_model(model: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights that look trained, with the tables ``tables.embedding`` and ``tables.head`` [X, D].

    Also returns the backbone's configuration. The same seed gives the same weights everywhere.
    """
    from wishbone.core.bench.models import build
    from wishbone.core.contract.contender import Job

    torch.manual_seed(model["seed"])
    job = Job({**model, "vocabulary": 2})
    backbone, _ = build(job, model["backbone"])
    random = torch.Generator().manual_seed(model["seed"])
    shape = (model["vocabulary"], backbone.width)
    tensors = backbone.state_dict()
    tensors["tables.embedding"] = torch.randn(shape, generator=random)
    # logits of about one, as a norm stands before the table
    tensors["tables.head"] = torch.randn(shape, generator=random) * backbone.width**-0.5
    return tensors, {key: getattr(backbone.config, key) for key in vars(backbone.config)}
