"""``wishbone convert``: weights of other projects in, and out again.

A format is a part of kind ``converter``; ``Converter`` is its contract.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from wishbone.core.cli.arguments import Parser
from wishbone.core.contract.converter import TABLES, Converted, Converter
from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.registry.loader import create, guarded, registry
from wishbone.core.registry.registry import Entry
from wishbone.core.weights.checkpoint import save
from wishbone.core.weights.files import FILE, read_tensors, write_tensors
from wishbone.core.weights.provenance import provenance


class Format(NamedTuple):
    """A converter and whose it is, so that whatever it raises is named."""

    entry: Entry
    converter: Converter

    @property
    def one_way(self) -> bool:
        """True where it has no way back."""
        return getattr(type(self.converter), "write", Converter.write) is Converter.write

    def read(self, source: Path) -> Converted:
        """As ``Converter.read``. Raises ``PluginBroken`` for what a plug-in does wrong."""
        with guarded(self.entry):
            converted = self.converter.read(source)
            if not isinstance(converted, Converted):
                raise TypeError(f"read() returned a {type(converted).__name__}, not a Converted")
        return converted

    def write(self, tensors: dict[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """As ``Converter.write``, and says so."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with guarded(self.entry):
            self.converter.write(tensors, config, to)
        print(f"{to} written")


EPILOGUE = """formats:
{}

'wishbone convert FORMAT THEIRS OURS' brings a file in, '... FORMAT OURS THEIRS --out' brings it
out, and '... FORMAT THEIRS OTHERS --to FORMAT' goes from one to another. Every tensor keeps its
bits, nothing is overwritten, and --list says what became of each name."""


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    options = _parser().parse_args(argv)
    theirs = find_format(options.format)
    other = find_format(options.to) if options.to else None
    if options.target.exists():
        raise CheckpointError(
            "The target exists already and is not overwritten.",
            str(options.target),
            "Choose another name, or move this one away.",
        )
    if options.out and other:
        raise UsageError("--out and --to exclude each other.", "wishbone convert", "Drop one.")
    if options.out:
        return _give(theirs, options.source, options.target)
    if other:
        return _pass_on(theirs, other, options)
    return _take(theirs, options)


def _parser() -> Parser:
    entries = sorted(registry().of("converter"), key=lambda entry: entry.key)
    width = max((len(entry.key) for entry in entries), default=0) + 2
    listing = "\n".join(f"  {entry.key:<{width}}{entry.summary}" for entry in entries)
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


def find_format(key: str) -> Format:
    """The format of that name. Raises ``UnknownName``, ``PluginError``."""
    entry = registry().entry("converter", key)
    return Format(entry, create(entry))


def _take(theirs: Format, options: argparse.Namespace) -> int:
    found = theirs.read(options.source)
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


def _pass_on(theirs: Format, other: Format, options: argparse.Namespace) -> int:
    """From one foreign format to another, with nothing of ours in between."""
    _refuse_one_way(other, "--to")
    found, slot = theirs.read(options.source), other.converter.slot
    tensors, config = found.tensors | found.tables, found.config
    if found.slot == "model" and slot != "model":
        tensors, config = _inside(tensors, slot), config[slot]
    elif found.slot != slot:
        raise UsageError(
            f"'{options.format}' is a {found.slot}, '{options.to}' a whole {slot}.",
            "wishbone convert --to",
            "Bring it in first, and use it in a system of yours.",
        )
    other.write(tensors, config, options.target)
    _report(found, options.list)
    return 0


def _give(theirs: Format, source: Path, target: Path) -> int:
    from wishbone.core.config.compose import compose

    _refuse_one_way(theirs, "--out")
    slot = theirs.converter.slot
    config = compose(source / "config.yaml")
    tensors = read_tensors(source / FILE)
    if (source / TABLES).is_file():
        tensors |= read_tensors(source / TABLES)
    if slot != "model":
        if slot not in config:
            raise CheckpointError(
                f"The checkpoint has no {slot}.",
                str(source / "config.yaml"),
                "Name the folder of a model, or of such a part.",
            )
        # A trained model's checkpoint holds the part beside tables and head, which stay here.
        tensors, config = _inside(tensors, slot) or tensors, config[slot]
    theirs.write(tensors, config, target)
    return 0


def _inside(tensors: dict[str, Tensor], slot: str) -> dict[str, Tensor]:
    """The tensors of one part of a model, by the part's own names."""
    inside = f"{slot}."
    return {n.removeprefix(inside): t for n, t in tensors.items() if n.startswith(inside)}


def _refuse_one_way(theirs: Format, option: str) -> None:
    if theirs.one_way:
        raise UsageError(
            f"The format '{theirs.entry.key}' converts in one direction only.",
            f"wishbone convert {option}",
            "Leave it away.",
        )
