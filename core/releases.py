"""Folders that others published, which ``weights:`` may name as it names one of ours.

A plug-in names its readers in the hook ``wishbone_releases``. A reader is a class without
arguments that has

- ``holds(folder) -> bool``: whether this is such a folder; looks at names, reads no weights;
- ``language_model(folder, model) -> Found``: tensors for the ``SpeechLM`` at hand, by its names;
- ``voices(folder) -> dict[str, Voice]``, if such a release has voices of its own.

A codec or a decoder knows its own files: it has the method ``load_release(folder)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.errors import PluginBroken


@dataclass
class Found:
    """What a release has for a language model."""

    tensors: dict[str, Tensor]
    """By the names of the model at hand, all of them."""
    note: str = ""
    """What a person should know, such as which part the release could not give."""


def known() -> dict[str, tuple[str, str]]:
    """Kind of release -> (``"package.module:Class"``, one line), of every plug-in that works."""
    from wishbone.core.plugin import loaded

    found: dict[str, tuple[str, str]] = {}
    for plugin in loaded().manager.get_plugins():
        for key, target, summary in getattr(plugin, "wishbone_releases", list)():
            found.setdefault(key, (target, summary))
    return found


def reader(folder: str | Path) -> Any | None:
    """The reader that knows this folder, if there is one. Raises ``PluginBroken``."""
    folder = Path(folder)
    if not folder.is_dir():
        return None
    for key, (target, _) in known().items():
        module, _, name = target.partition(":")
        try:
            candidate = getattr(import_module(module), name)()
        except Exception as error:
            raise PluginBroken(
                f"The reader of releases '{key}' cannot be loaded: {error}",
                target,
                "Repair the plug-in.",
            ) from error
        if candidate.holds(folder):
            return candidate
    return None
