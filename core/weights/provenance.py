"""Provenance of weights: parts and their suppliers, code, data, seeds, command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import weights_folder
from wishbone.core.config.schema import innermost
from wishbone.core.registry.loader import API, registry
from wishbone.core.registry.registry import HOME, KINDS


def provenance(
    config: Mapping[str, Any],
    *,
    data: str = "",
    seeds: Mapping[str, int] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe the origin of a checkpoint: suppliers of its parts, code, data, seeds, command.

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
        "command": [Path(sys.argv[0]).name, *map(_without_folders, sys.argv[1:])],
        "notes": dict(notes or {}),
    }


def hash_files(paths: Iterable[str | Path], known: Mapping[Path, str] | None = None) -> str:
    """SHA-256 over the contents of files, in the order of their names: the identity of a corpus.

    ``known`` are SHA-256 of files that need not be read for it.
    """
    total = hashlib.sha256()
    for path in sorted(map(Path, paths), key=lambda p: p.name):
        digest = (known or {}).get(path)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name}:{digest}\n".encode())
    return total.hexdigest()


def start_folders(config: Mapping[str, Any]) -> list[Path]:
    """Folders of weights that the language model of ``config`` begins with, there or not."""
    backbone, head = config.get("backbone") or {}, config.get("head") or {}
    names = [config.get("weights"), *(innermost(part).get("weights") for part in (backbone, head))]
    return [weights_folder(str(name)) for name in dict.fromkeys(names) if name]


def start_weights(config: Mapping[str, Any]) -> str:
    """SHA-256 of the tensors that the language model of ``config`` begins with; "" for none."""
    folders = start_folders(config)
    files = [file for folder in folders for file in sorted(folder.rglob("*.safetensors"))]
    return hash_files(files) if files else ""


def trainings(folder: Path) -> list[dict[str, Any]]:
    """Return every training of the weights in ``folder``, first one first, as it was recorded.

    Each has ``data`` (a hash), ``steps`` and ``recipe``; [] where nothing of that kind is noted.
    """
    try:
        record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        notes = record["notes"]
        last = {"data": record.get("data"), "steps": notes["steps"], "recipe": notes["recipe"]}
        stages = [*(notes.get("before") or []), last]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    sound = all(
        isinstance(stage, Mapping) and isinstance(stage.get("recipe"), Mapping) for stage in stages
    )
    return stages if sound else []


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


def _without_folders(argument: str) -> str:
    """An argument without the folders of this machine: weights are given away with it.

    A path under the working directory is written from there, any other by its last part.
    """
    key, sign, value = argument.rpartition("=")
    if not os.path.isabs(value):
        return argument
    path = Path(value)
    inside = path.is_relative_to(Path.cwd())
    return f"{key}{sign}{path.relative_to(Path.cwd()) if inside else path.name}"


def _suppliers(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Slot -> key, distribution, version and target of the part in it."""
    suppliers = {}
    for slot in KINDS:
        section = config.get(slot)
        if isinstance(section, Mapping) and "name" in section:
            entry = registry().entry(slot, section["name"])
            suppliers[slot] = {
                "key": entry.key,
                "distribution": entry.distribution,
                "version": entry.version,
                "target": entry.target,
                "api": f"{API[0]}.{API[1]}",
            }
    return suppliers


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
