"""Tensors in and out of files, and their names. Never pickle."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.atomic import replacing_in_folder
from wishbone.core.contract.errors import CheckpointError

FILE = "model.safetensors"
LARGEST = 1e8
"""Magnitude above which a weight is damaged: trained ones stay below 1e3, and tables of positions
or masks in old files below 1e6."""
MOST_NAMED = 8
"""Names that one message lists."""
WRAPPERS = ("_orig_mod.", "module.")
"""What ``torch.compile`` and data parallelism put before the names of a model."""


def write_tensors(path: str | Path, tensors: nn.Module | Mapping[str, Tensor]) -> None:
    """Write a module's state, or named tensors, to one safetensors file.

    Tensors that share memory are written apart; loading a module that shares them is unaffected.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    state = tensors if isinstance(tensors, Mapping) else tensors.state_dict()
    contiguous = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()
    }
    # the library writes to a name of its own beside the file, and a kill would leave that
    with replacing_in_folder(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise _system_error(error, path) from error


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


def require_plausible(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ``CheckpointError`` where a number is infinite, none at all, or beyond ``LARGEST``.

    Such a number becomes noise at full scale. One pass over the memory: a million take 1 ms.
    """
    bad = []
    for name, tensor in sorted(tensors.items()):
        if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            continue
        # eight-bit floats have no minimum in PyTorch
        values = tensor.float() if tensor.element_size() == 1 else tensor
        low, high = torch.aminmax(values.detach())
        # comparisons with NaN are false
        if not (-LARGEST <= float(low) and float(high) <= LARGEST):
            bad.append(name)
    if bad:
        raise CheckpointError(
            f"{len(bad)} tensors hold numbers that are infinite, not numbers, or beyond"
            f" {LARGEST:g}: {listed(bad)}.",
            where,
            "The file is damaged, or its training diverged: use an earlier one.",
        )


def listed(names: Sequence[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    more = f", ... ({len(names) - MOST_NAMED} more)" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names that they have without ``WRAPPERS``, where all begin with one."""
    bare = dict(tensors)
    while bare and (
        wrapper := next((w for w in WRAPPERS if all(n.startswith(w) for n in bare)), "")
    ):
        bare = {name.removeprefix(wrapper): tensor for name, tensor in bare.items()}
    return bare


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


def _system_error(error: Exception, path: Path) -> Exception:
    """Return the operating system's error that ``error`` tells of, or ``error`` itself."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return error
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path))


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
