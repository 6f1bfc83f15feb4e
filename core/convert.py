"""``wishbone convert``: weights of other projects in, and out again.

A plug-in names its converters in the hook ``wishbone_converters``. A converter is a class without
arguments that has ``slot``, the kind of part it is for, ``read(source) -> Converted`` and, where
there is a way back, ``write(tensors, config, to)``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.arguments import Parser
from wishbone.core.errors import CheckpointError, PluginBroken, UnknownName, did_you_mean
from wishbone.core.weights import FILE, provenance, read_tensors, save, write_tensors

TABLES = "tables.safetensors"
"""What a file brings beside the part: tables of a vocabulary this library has no slot for."""


@dataclass
class Converted:
    """A foreign file in our terms."""

    slot: str
    """Kind of part the tensors belong to."""
    config: dict[str, Any]
    """The slot's section of a system's configuration."""
    tensors: dict[str, Tensor]
    """Of the part, by our names."""
    tables: dict[str, Tensor] = field(default_factory=dict)
    """Everything else worth keeping."""
    account: dict[str, str] = field(default_factory=dict)
    """Their name -> ours, or why it is left out; every name of the file."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    parser = Parser(
        prog="wishbone convert", description="Bring weights in from other projects, and out."
    )
    known = converters()
    listing = "; ".join(f"{key}: {summary}" for key, (_, summary) in sorted(known.items()))
    parser.add_argument("format", help=listing or "no converter is installed")
    parser.add_argument("source", type=Path, help="their file or folder; with --out, our folder")
    parser.add_argument(
        "target", type=Path, help="our new folder; with --out, their file or folder"
    )
    parser.add_argument("--out", action="store_true", help="from ours to theirs")
    parser.add_argument("--list", action="store_true", help="print what became of every name")
    options = parser.parse_args(argv)
    converter = _converter(options.format, known)
    if options.target.exists():
        raise CheckpointError(
            "The target exists already and is not overwritten.",
            str(options.target),
            "Choose another name, or move this one away.",
        )
    if options.out:
        return _give(converter, options.source, options.target)
    return _take(converter, options)


def converters() -> dict[str, tuple[str, str]]:
    """Format -> (``"package.module:Class"``, one line), of every plug-in that works."""
    from wishbone.core.plugin import loaded

    found: dict[str, tuple[str, str]] = {}
    for plugin in loaded().manager.get_plugins():
        for key, target, summary in getattr(plugin, "wishbone_converters", list)():
            found.setdefault(key, (target, summary))
    return found


def _converter(key: str, known: dict[str, tuple[str, str]]) -> Any:
    if key not in known:
        raise UnknownName(
            f"No converter is named '{key}'.",
            f"the plug-ins, which know: {', '.join(sorted(known)) or 'none'}",
            did_you_mean(key, known) or "Run 'wishbone convert --help' to see every format.",
        )
    module, _, name = known[key][0].partition(":")
    try:
        return getattr(import_module(module), name)()
    except Exception as error:
        raise PluginBroken(
            f"The converter '{key}' cannot be loaded: {error}", known[key][0], "Repair the plug-in."
        ) from error


def _take(converter: Any, options: argparse.Namespace) -> int:
    found: Converted = converter.read(options.source)
    config = {found.slot: found.config}
    origin = provenance(config, notes={"converted from": options.source.name})
    save(options.target, found.tensors, config, origin)
    if found.tables:
        write_tensors(options.target / TABLES, found.tables)
    if options.list:
        for theirs, ours in found.account.items():
            print(f"{theirs} -> {ours}")
    left = sum(ours.startswith("left out") for ours in found.account.values())
    print(
        f"{len(found.account)} names: {len(found.account) - len(found.tables) - left} in "
        f"{options.target / FILE}, {len(found.tables)} in {TABLES}, {left} left out"
    )
    print(f"use it with: {found.slot}: {{name: {found.config['name']}, weights: {options.target}}}")
    return 0


def _give(converter: Any, source: Path, target: Path) -> int:
    from wishbone.core.compose import compose

    if not hasattr(converter, "write"):
        raise UnknownName(
            f"{type(converter).__name__} converts in one direction only.",
            "wishbone convert --out",
            "Leave --out away.",
        )
    config = compose(source / "config.yaml")[converter.slot]
    tensors = read_tensors(source / FILE)
    if (source / TABLES).is_file():
        tensors |= read_tensors(source / TABLES)
    # A trained model's checkpoint holds the part beside tables and head, which stay here.
    inside = f"{converter.slot}."
    part = {n.removeprefix(inside): t for n, t in tensors.items() if n.startswith(inside)}
    tensors = part or tensors
    target.parent.mkdir(parents=True, exist_ok=True)
    converter.write(tensors, config, target)
    print(f"{len(tensors)} tensors written as {target}")
    return 0
