"""Tensors in and out of files, and their names. Never pickle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.atomic import replacing
from wishbone.core.contract.errors import CheckpointError

FILE = "model.safetensors"
_AS_PREFIX = {
    "speech_tokenizer": ("speech_tokenizer.", "tokenizer."),
    "decoder": ("decoder.",),
    "backbone": ("backbone.",),
    "head": ("head.",),
}
"""Slot -> beginnings of its names in a file of a whole codec, or of a whole language model."""


def write_tensors(path: str | Path, tensors: nn.Module | Mapping[str, Tensor]) -> None:
    """Write a module's state, or named tensors, to one safetensors file.

    Tensors that share memory are written apart; loading a module that shares them is unaffected.
    """
    from safetensors.torch import save_file

    path = Path(path)
    state = tensors if isinstance(tensors, Mapping) else tensors.state_dict()
    contiguous = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()
    }
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={"format": "pt"})


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a ``.safetensors`` file, or of a foreign ``.pt`` or ``.pth``.

    Foreign files go through ``torch.load(weights_only=True)``, which runs no code of theirs.
    Raises ``CheckpointError``.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            "There is no file of weights here.", str(path), "Check 'weights:' in the configuration."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"The file cannot be read as weights: {error}", str(path), "Download or make it again."
        ) from error
    return _tensors_of(loaded, path)


def part_tensors(folder: str | Path, slot: str) -> tuple[dict[str, Tensor], Path]:
    """Read the tensors of one slot in a checkpoint folder, by the part's own names -> their file.

    ``<slot>.safetensors`` is used if the folder has it; otherwise ``model.safetensors``, of which a
    part takes the names that begin with its own. Raises ``CheckpointError``.
    """
    slot_file = Path(folder) / f"{slot}.safetensors"
    path = slot_file if slot_file.is_file() else Path(folder) / FILE
    tensors = read_tensors(path)
    for prefix in _AS_PREFIX.get(slot, ()):
        inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if inside and path != slot_file:
            return inside, path
    return tensors, path


def translate(
    tensors: Mapping[str, Tensor], table: Mapping[str, str | None], where: str = ""
) -> dict[str, Tensor]:
    """Rename tensors by a table of patterns, foreign name -> ours; ``{}`` stands for a number.

    ``None`` leaves a name out on purpose. Raises ``CheckpointError`` naming every tensor that the
    table does not know, every entry that met no tensor, and every name made twice.
    """
    patterns = {foreign: _pattern(foreign) for foreign in table}
    renamed: dict[str, Tensor] = {}
    unknown, used, twice = [], set(), []
    for name, tensor in tensors.items():
        matches = ((foreign, pattern.fullmatch(name)) for foreign, pattern in patterns.items())
        foreign, match = next(((f, m) for f, m in matches if m), ("", None))
        if match is None:
            unknown.append(name)
            continue
        used.add(foreign)
        ours = table[foreign]
        if ours is not None:
            target = ours.format(*match.groups())
            if target in renamed:
                twice.append(target)
            renamed[target] = tensor
    unused = [
        foreign for foreign, ours in table.items() if foreign not in used and ours is not None
    ]
    problems = [
        f"{label}: {', '.join(sorted(names))}"
        for label, names in (
            ("names the table does not know", unknown),
            ("entries of the table that met no tensor", unused),
            ("names made twice", twice),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"The weights do not translate: {'; '.join(problems)}.",
            where,
            "Check that the file is of the kind the converter is for.",
        )
    return renamed


def _tensors_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The flat tensors of a foreign file, also where they lie under ``state_dict`` or ``model``."""
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        loaded = {}
    other = sorted(str(k) for k, v in loaded.items() if not isinstance(v, Tensor))
    if not loaded or other:
        raise CheckpointError(
            f"The file is not a table of tensors; it also holds: {', '.join(other) or 'nothing'}.",
            str(path),
            "Extract the state_dict of the model first.",
        )
    return {str(name): tensor for name, tensor in loaded.items()}


def _pattern(foreign: str) -> re.Pattern[str]:
    return re.compile(re.escape(foreign).replace(r"\{\}", r"(\d+)"))
