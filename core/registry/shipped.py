"""Configurations that a plug-in's wheel brings: ``VENDOR/NAME`` is a YAML file inside its package.

A package puts them below ``configs/`` beside its other files: ``configs/system/NAME.yaml``,
``configs/train/``, ``configs/ab/``, ``configs/voices/``, and files of prompts
(``configs/ab/NAME.txt``, ``.tsv`` or ``.lst``). What such a file names (weights, prompts,
another file as its base) is looked for beside it first, so a wheel may bring that, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from wishbone.core.registry.loader import loaded
from wishbone.core.registry.registry import HOME


def shipped(kind: str) -> dict[str, Path]:
    """Return name -> file of every configuration of ``kind`` that an installed plug-in brings.

    ``kind`` is the folder: system, train, ab, voices. The vendor is the entry point's name.
    """
    files: dict[str, Path] = {}
    for vendor, folder in _places():
        for path in sorted((folder / "configs" / kind).glob("*.yaml")):
            files.setdefault(f"{vendor}/{path.stem}", path)
    return files


def shipped_prompts() -> dict[str, Path]:
    """Return ``VENDOR/FILE`` -> path of every file of prompts that an installed plug-in brings."""
    return {
        f"{vendor}/{path.name}": path
        for vendor, folder in _places()
        for path in sorted((folder / "configs" / "ab").glob("*.*"))
        if path.suffix in (".txt", ".tsv", ".lst")
    }


def _places() -> Iterator[tuple[str, Path]]:
    """Vendor and package folder of every plug-in that loaded, but for our own."""
    for plugin in loaded().plugins:
        if plugin.distribution != HOME and plugin.status == "ok":
            yield from ((plugin.name, folder) for folder in _folders(plugin.module))


def _folders(module: str) -> list[Path]:
    """Folders of the package that a plug-in's module stands in; none for a lone module."""
    spec = find_spec(module.partition(":")[0].partition(".")[0])
    places = spec.submodule_search_locations if spec else None
    return [Path(place) for place in places or ()]
