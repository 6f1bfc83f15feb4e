"""``wishbone convert``: weights of other projects in, and out again.

A plug-in names its converters in the hook ``wishbone_converters``. A converter is a class without
arguments that has ``slot``, the kind of part it is for (or "model" for a whole language model),
``read(source) -> Converted`` and, where there is a way back, ``write(tensors, config, to)``.
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
from wishbone.core.checkpoint import save
from wishbone.core.errors import (
    CheckpointError,
    PluginBroken,
    UnknownName,
    UsageError,
    did_you_mean,
)
from wishbone.core.provenance import provenance
from wishbone.core.weight_files import FILE, read_tensors, write_tensors

TABLES = "tables.safetensors"
"""What a file brings beside the part: tables of a vocabulary this library has no slot for."""


@dataclass
class Converted:
    """A foreign file in our terms."""

    slot: str
    """Kind of part the tensors belong to, or "model"."""
    config: dict[str, Any]
    """The slot's section of a system's configuration; for a model, layout, backbone and head."""
    tensors: dict[str, Tensor]
    """Of the part, by our names."""
    tables: dict[str, Tensor] = field(default_factory=dict)
    """Everything else worth keeping."""
    account: dict[str, str] = field(default_factory=dict)
    """Their name -> ours, or why it is left out; every name of the file."""


EPILOGUE = """formats:
{}

'wishbone convert FORMAT THEIRS OURS' brings a file in, '... FORMAT OURS THEIRS --out' brings it
out, and '... FORMAT THEIRS OTHERS --to FORMAT' goes from one to another. Every tensor keeps its
bits, nothing is overwritten, and --list says what became of each name."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    options = _parser(known := converters()).parse_args(argv)
    converter = _converter(options.format, known)
    other = _converter(options.to, known) if options.to else None
    if options.target.exists():
        raise CheckpointError(
            "The target exists already and is not overwritten.",
            str(options.target),
            "Choose another name, or move this one away.",
        )
    if options.out and other:
        raise UsageError("--out and --to exclude each other.", "wishbone convert", "Drop one.")
    if options.out:
        return _give(converter, options.source, options.target)
    if other:
        return _pass_on(converter, other, options)
    return _take(converter, options)


def _parser(known: dict[str, tuple[str, str]]) -> Parser:
    width = max(map(len, known), default=0) + 2
    listing = "\n".join(f"  {key:<{width}}{said}" for key, (_, said) in sorted(known.items()))
    parser = Parser(
        prog="wishbone convert",
        description="Bring weights in from other projects, and out.",
        epilog=EPILOGUE.format(listing or "  no converter is installed"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", help="one of the formats below")
    parser.add_argument("source", type=Path, help="their file or folder; with --out, our folder")
    parser.add_argument(
        "target", type=Path, help="our new folder; with --out, their file or folder"
    )
    parser.add_argument("--out", action="store_true", help="from ours to theirs")
    parser.add_argument("--to", metavar="FORMAT", help="from theirs to this format instead of ours")
    parser.add_argument("--list", action="store_true", help="print what became of every name")
    return parser


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
    model = found.slot == "model"
    config = found.config | {"weights": "."} if model else {found.slot: found.config}
    origin = provenance(config, notes={"converted from": options.source.name})
    save(options.target, found.tensors, config, origin)
    if found.tables:
        write_tensors(options.target / TABLES, found.tables)
    _report(found, options.list)
    name = "" if model else found.config["name"]
    print(
        f"{options.target} written; use it with "
        + (f"base: [SYSTEM, {options.target}]" if model
           else f"{found.slot}: {{name: {name}, weights: {options.target}}}")
    )  # fmt: skip
    return 0


def _report(found: Converted, whole: bool) -> None:
    if whole:
        for theirs, ours in found.account.items():
            print(f"{theirs} -> {ours}")
    left = sum(ours.startswith("left out") for ours in found.account.values())
    print(
        f"{len(found.account)} names: {len(found.account) - len(found.tables) - left} in "
        f"{FILE}, {len(found.tables)} in {TABLES}, {left} left out"
    )


def _pass_on(converter: Any, other: Any, options: argparse.Namespace) -> int:
    """From one foreign format to another, with nothing of ours in between."""
    found: Converted = converter.read(options.source)
    _refuse_one_way(other, options.to)
    tensors, config = found.tensors | found.tables, found.config
    if found.slot == "model" and other.slot != "model":
        tensors, config = _inside(tensors, other.slot), config[other.slot]
    elif found.slot != other.slot:
        raise UsageError(
            f"'{options.format}' is a {found.slot}, '{options.to}' a whole {other.slot}.",
            "wishbone convert --to",
            "Bring it in first, and use it in a system of yours.",
        )
    options.target.parent.mkdir(parents=True, exist_ok=True)
    _write(other, tensors, config, options.target)
    _report(found, options.list)
    return 0


def _give(converter: Any, source: Path, target: Path) -> int:
    from wishbone.core.compose import compose

    _refuse_one_way(converter, "--out")
    config = compose(source / "config.yaml")
    tensors = read_tensors(source / FILE)
    if (source / TABLES).is_file():
        tensors |= read_tensors(source / TABLES)
    if converter.slot != "model":
        if converter.slot not in config:
            raise CheckpointError(
                f"The checkpoint has no {converter.slot}.",
                str(source / "config.yaml"),
                "Name the folder of a model, or of such a part.",
            )
        # A trained model's checkpoint holds the part beside tables and head, which stay here.
        tensors, config = _inside(tensors, converter.slot) or tensors, config[converter.slot]
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(converter, tensors, config, target)
    return 0


def _write(converter: Any, tensors: dict[str, Tensor], config: Any, target: Path) -> None:
    converter.write(tensors, config, target)
    print(f"{target} written")


def _inside(tensors: dict[str, Tensor], slot: str) -> dict[str, Tensor]:
    """The tensors of one part of a model, by the part's own names."""
    inside = f"{slot}."
    return {n.removeprefix(inside): t for n, t in tensors.items() if n.startswith(inside)}


def _refuse_one_way(converter: Any, asked: str) -> None:
    if not hasattr(converter, "write"):
        raise UnknownName(
            f"{type(converter).__name__} converts in one direction only.",
            f"wishbone convert {asked}",
            "Leave it away.",
        )
