"""Other projects' files of weights: folders of Hugging Face, and PyTorch's own format out.

Reading never runs what a file says: pickles are read as tensors only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wishbone.core.contract.atomic import replacing
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.weights.tensor_files import read_tensors

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""One file of weights, the better first."""
INDEX = ".index.json"
"""Ends the name of the list of several."""


def files(folder: str | Path) -> list[Path]:
    """List the files of weights in a folder of Hugging Face, which may have none.

    Raises ``CheckpointError`` for a list that names a file outside the folder, or one that is
    missing.
    """
    folder = Path(folder)
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / (name + INDEX)).is_file():
            return _listed(folder / (name + INDEX))
    return []


def read_folder(source: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a file, or of a folder of Hugging Face in one file or several.

    Raises ``CheckpointError``.
    """
    source = Path(source)
    if not source.is_dir():
        return dict(read_tensors(source))
    parts = files(source)
    if not parts:
        raise CheckpointError(
            f"The folder has neither {WHOLE[0]} nor {WHOLE[1]}, nor a list of several.",
            str(source),
            "Name the folder in which the weights are.",
        )
    tensors: dict[str, Tensor] = {}
    for file in parts:
        part = read_tensors(file)
        twice = sorted(tensors.keys() & part.keys())
        if twice:
            raise CheckpointError(
                f"Two files have {', '.join(twice[:3])}.", str(file), "Download the folder again."
            )
        tensors |= part
    return tensors


def write_pickle(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as PyTorch does; names that share a tensor still do.

    Of a storage only the part that a tensor shows is written.
    """
    copies: dict[tuple[int, int, tuple[int, ...]], Tensor] = {}
    output = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), int(tensor.storage_offset()), tuple(tensor.shape))
        output[name] = copies.setdefault(key, tensor.detach().cpu().clone().contiguous())
    with replacing(path) as temporary:
        torch.save(output, temporary)


def check(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ``CheckpointError`` unless names and shapes are those of ``module``; it may be meta."""
    state = module.state_dict()
    problems = [
        f"{len(names)} tensors {label}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for label, names in (
            ("are missing", sorted(state.keys() - tensors.keys())),
            ("mean nothing here", sorted(tensors.keys() - state.keys())),
            (
                "have another shape than the rest of the model",
                [
                    f"{name} {list(tensors[name].shape)}, not {list(row.shape)}"
                    for name, row in state.items()
                    if name in tensors and tensors[name].shape != row.shape
                ],
            ),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"The weights do not make one {type(module).__name__}: {'; '.join(problems)}.",
            where,
            "Download the file again, whole, or make it again.",
        )


def _listed(index: Path) -> list[Path]:
    """Files that an index of several names; raises ``CheckpointError``."""
    try:
        rows = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in rows.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The list of files cannot be read: {error!r}.", str(index), "Download it again."
        ) from error
    outside = [name for name in names if Path(name).name != name]
    missing = [name for name in names if not (index.parent / name).is_file()]
    if outside or missing:
        raise CheckpointError(
            f"The list names {', '.join((outside or missing)[:3])},"
            f" which {'is outside its folder' if outside else 'is not here'}.",
            str(index),
            "Download the folder again, whole.",
        )
    return [index.parent / name for name in names]
