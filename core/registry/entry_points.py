"""Entry points of plug-ins: the built-in modules, and those of installed distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

from wishbone.core.registry.registry import HOME

GROUP = "wishbone.plugins"
BUILT_IN = ("wishbone.core.registry.built_in", "wishbone.plugins", "wishbone.adapters")


@dataclass(frozen=True)
class Point:
    """An entry point, or a built-in module that stands for one."""

    name: str
    module: str
    distribution: str
    version: str
    load: Callable[[], Any]


def built_in_points() -> list[Point]:
    """The parts that ship with Wishbone: by module name, so that a bare checkout has them too."""
    version = own_version()
    return [
        Point(name, name, HOME, version, lambda name=name: import_module(name)) for name in BUILT_IN
    ]


def installed_points() -> list[Point]:
    """Entry points of every other distribution; one seen twice on the path counts once."""
    points: dict[tuple[str, str], Point] = {}
    for entry in metadata.entry_points(group=GROUP):
        distribution, version = _identity(entry)
        if entry.value not in BUILT_IN:
            point = Point(entry.name, entry.value, distribution, version, entry.load)
            points.setdefault((distribution, entry.name), point)
    return [points[at] for at in sorted(points)]


def _identity(entry: metadata.EntryPoint) -> tuple[str, str]:
    """Return name and version of the distribution of ``entry``.

    One that was removed by halves has entry points and no metadata: its package names it.
    """
    if entry.dist is None:
        return "unknown", ""
    try:
        name, version = entry.dist.metadata["Name"], entry.dist.metadata["Version"]
    except Exception:  # which error a missing file gives differs between versions of Python
        name, version = None, None
    return name or entry.value.partition(":")[0].partition(".")[0], version or ""


def own_version() -> str:
    """Version of the installed Wishbone."""
    try:
        return metadata.version(HOME)
    except metadata.PackageNotFoundError:
        return "not installed"
