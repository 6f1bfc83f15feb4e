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
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from wishbone.core.errors import PluginBroken

if TYPE_CHECKING:
    from wishbone.core.voice import Voice


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


def load(module: nn.Module, folder: Path, slot: str) -> str | None:
    """Fill a module from a folder that is a release -> a note; None where it is none.

    ``slot`` is "model" for the whole language model, or a slot of the configuration.
    """
    from wishbone.core.weights import load_tensors

    own = getattr(module, "load_release", None)
    if own is None and slot != "model":
        return None
    found = reader(folder)
    if found is None:
        return None
    if own is not None:
        own(folder)
        return ""
    read = found.language_model(folder, module)
    load_tensors(module, read.tensors, str(folder))
    return read.note


def voices(folder: str | Path) -> dict[str, Voice]:
    """Voices that a release brings along, by name; none for any other folder."""
    found = reader(folder)
    return getattr(found, "voices", lambda _: {})(Path(folder))
