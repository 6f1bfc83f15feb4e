"""Weights in and out of files, with where they came from. Never pickle.

A checkpoint is a folder: ``model.safetensors``, ``config.yaml`` (resolved) and ``provenance.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.atomic import new_folder, replacing
from wishbone.core.errors import CheckpointError
from wishbone.core.registry import HOME

FILE = "model.safetensors"
_AS_PREFIX = {
    "speech_tokenizer": ("speech_tokenizer.", "tokenizer."),
    "decoder": ("decoder.",),
    "backbone": ("backbone.",),
    "head": ("head.",),
}
"""Slot -> how its names begin in a file that holds a whole codec, or a whole language model."""


def save(
    folder: str | Path,
    module: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> Path:
    """Write a checkpoint folder at once: it is either all there or not there.

    ``config`` is the resolved configuration, ``origin`` what ``provenance`` returns. Raises
    ``CheckpointError`` if ``folder`` exists.
    """
    from wishbone.core.compose import dump

    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(
            "The checkpoint exists already and is not overwritten.",
            str(folder),
            "Choose another folder, or move this one away.",
        )
    with new_folder(folder) as temporary:
        write_tensors(temporary / FILE, module)
        (temporary / "config.yaml").write_text(dump(config), encoding="utf-8")
        text = json.dumps(dict(origin), indent=2, ensure_ascii=False, default=str)
        (temporary / "provenance.json").write_text(text + "\n", encoding="utf-8")
    return folder


def write_tensors(path: str | Path, tensors: nn.Module | Mapping[str, Tensor]) -> None:
    """Write a module's state, or named tensors, to one safetensors file.

    Tensors that share memory are written apart; loading a module that shares them is unaffected.
    """
    from safetensors.torch import save_file

    path = Path(path)
    named = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    held = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in named.items()}
    with replacing(path) as temporary:
        save_file(held, temporary, metadata={"format": "pt"})


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` file, or of a foreign ``.pt`` or ``.pth``.

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


def load_part(
    module: nn.Module,
    folder: str | Path,
    slot: str = "model",
    grow: Callable[[nn.Module, dict[str, Tensor]], str] | None = None,
) -> str:
    """Load a module from a checkpoint folder, every name accounted for.

    Which file and names is told by ``part_tensors``; where there is no file of ours, whatever
    ``wishbone.core.releases`` knows. ``grow`` may add to the tensors what the module has more.
    Returns what a person should know, or nothing.
    """
    from wishbone.core import releases

    folder = Path(folder)
    own = any((folder / name).is_file() for name in (f"{slot}.safetensors", FILE))
    if not own and (note := releases.load(module, folder, slot)) is not None:
        return note
    tensors, path = part_tensors(folder, slot)
    note = grow(module, tensors) if grow else ""
    load_tensors(module, tensors, str(path))
    return note


def part_tensors(folder: str | Path, slot: str) -> tuple[dict[str, Tensor], Path]:
    """The tensors of one slot in a checkpoint folder by the part's own names, and their file.

    ``<slot>.safetensors`` is used if the folder has it; otherwise ``model.safetensors``, of which a
    part takes the names that begin with its own. Raises ``CheckpointError``.
    """
    own = Path(folder) / f"{slot}.safetensors"
    path = own if own.is_file() else Path(folder) / FILE
    tensors = read_tensors(path)
    for prefix in _AS_PREFIX.get(slot, ()):
        inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if inside and path != own:
            return inside, path
    return tensors, path


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], where: str = "") -> None:
    """Copy named tensors into a module, keeping the module's dtypes and devices.

    A backbone that wraps another takes the plain one's, too: ``wishbone.core.wrapping``. Raises
    ``CheckpointError`` that lists all missing, unexpected and misshaped names together; then the
    module is as it was.
    """
    from wishbone.core.wrapping import settle

    wanted = module.state_dict()
    tensors, fresh = settle(module, tensors)
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys())
    misshaped = [
        f"{name} (file {list(tensors[name].shape)}, model {list(wanted[name].shape)})"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {label}: {', '.join(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshaped),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"The weights are not those of this {type(module).__name__}: {'; '.join(problems)}.",
            where,
            "Use the configuration they were saved with (config.yaml beside them).",
        )
    module.load_state_dict(tensors)
    for wrapper in fresh:
        wrapper.adopt()


def translate(
    tensors: Mapping[str, Tensor], table: Mapping[str, str | None], where: str = ""
) -> dict[str, Tensor]:
    """Rename tensors by a table of patterns, theirs -> ours; ``{}`` stands for a number.

    ``None`` leaves a name out on purpose. Raises ``CheckpointError`` naming every tensor that the
    table does not know, every entry that met no tensor, and every name made twice.
    """
    rules = [(_pattern(theirs), theirs, ours) for theirs, ours in table.items()]
    renamed: dict[str, Tensor] = {}
    unknown, used, twice = [], set(), []
    for name, tensor in tensors.items():
        match = next(((m, t, o) for p, t, o in rules if (m := p.fullmatch(name))), None)
        if match is None:
            unknown.append(name)
            continue
        found, theirs, ours = match
        used.add(theirs)
        if ours is not None:
            target = ours.format(*found.groups())
            if target in renamed:
                twice.append(target)
            renamed[target] = tensor
    unused = [theirs for theirs, ours in table.items() if theirs not in used and ours is not None]
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


def provenance(
    config: Mapping[str, Any],
    *,
    data: str = "",
    seeds: Mapping[str, int] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Where a checkpoint comes from: who supplied each part, code, data, seeds, command line.

    ``data`` is a hash such as ``hash_files`` makes; ``notes`` are figures of the run.
    """
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parts": _suppliers(config),
        "distributions": {name: _version(name) for name in (HOME, "torch", "numpy", "safetensors")},
        "python": sys.version.split()[0],
        "git": revision(),
        "data": data,
        "seeds": dict(seeds or {}),
        "command": [Path(sys.argv[0]).name, *map(_here, sys.argv[1:])],
        "notes": dict(notes or {}),
    }


def _here(argument: str) -> str:
    """An argument without the folders of this machine: weights are given away with it.

    What lies under the working directory is named from there, anything else by its last part.
    """
    key, sign, value = argument.rpartition("=")
    if not os.path.isabs(value):
        return argument
    path = Path(value)
    inside = path.is_relative_to(Path.cwd())
    return f"{key}{sign}{path.relative_to(Path.cwd()) if inside else path.name}"


def hash_files(paths: Iterable[str | Path]) -> str:
    """SHA-256 over the contents of files, in the order of their names: the identity of a corpus."""
    total = hashlib.sha256()
    for path in sorted(map(Path, paths), key=lambda p: p.name):
        with path.open("rb") as file:
            total.update(
                f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return total.hexdigest()


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


def _pattern(theirs: str) -> re.Pattern[str]:
    return re.compile(re.escape(theirs).replace(r"\{\}", r"(\d+)"))


def _suppliers(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Slot -> key, distribution, version and target of the part in it."""
    from wishbone.core.plugin import API, registry
    from wishbone.core.registry import KINDS

    found = {}
    for slot in KINDS:
        section = config.get(slot)
        if isinstance(section, Mapping) and "name" in section:
            entry = registry().entry(slot, section["name"])
            found[slot] = {
                "key": entry.key,
                "distribution": entry.distribution,
                "version": entry.version,
                "target": entry.target,
                "api": f"{API[0]}.{API[1]}",
            }
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def revision() -> str:
    """Git revision of the code that runs, marked when it was changed; empty outside a checkout."""
    folder = Path(__file__).parent
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return answers[0] + (" (changed)" if answers[1] else "")
