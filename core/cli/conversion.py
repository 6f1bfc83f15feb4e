"""Weights of other projects in, and out again: the work of ``wishbone convert``.

A format is a part of kind ``converter``; ``Converter`` is its contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from wishbone.core.config.compose import compose
from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.contract.extensions.converter import TABLES, Converted, Converter
from wishbone.core.registry.loader import create, guarded, registry
from wishbone.core.registry.registry import Entry
from wishbone.core.weights.checkpoint import save
from wishbone.core.weights.provenance import provenance
from wishbone.core.weights.tensor_files import FILE, read_tensors, write_tensors


class Format(NamedTuple):
    """A converter with its entry in the registry, so that errors name the plug-in it is of."""

    entry: Entry
    converter: Converter

    @property
    def one_way(self) -> bool:
        """True where it has no way back."""
        return getattr(type(self.converter), "write", Converter.write) is Converter.write

    def read(self, source: Path) -> Converted:
        """Read as ``Converter.read`` does. Raises ``PluginBroken`` for a plug-in's errors."""
        with guarded(self.entry):
            converted = self.converter.read(source)
            if not isinstance(converted, Converted):
                raise TypeError(f"read() returned a {type(converted).__name__}, not a Converted")
        return converted

    def write(self, tensors: dict[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """Write as ``Converter.write`` does, and print where."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with guarded(self.entry):
            self.converter.write(tensors, config, to)
        print(f"{to} written")


def find_format(key: str) -> Format:
    """Return the format of that name. Raises ``UnknownName``, ``PluginError``."""
    entry = registry().entry("converter", key)
    return Format(entry, create(entry))


def bring_in(source_format: Format, source: Path, target: Path, every_name: bool) -> None:
    """Read a foreign file and write it as a checkpoint of ours; print a summary of the names."""
    converted = source_format.read(source)
    slot, config = converted.slot, converted.config
    if slot == "model":
        system, usage = config | {"weights": "."}, f"base: [SYSTEM, {target}]"
    else:
        system = {slot: config}
        usage = f"{slot}: {{name: {config['name']}, weights: {target}}}"
    origin = provenance(system, notes={"converted from": source.name})
    save(target, converted.tensors, system, origin)
    if converted.tables:
        write_tensors(target / TABLES, converted.tables)
    _report(converted, every_name)
    print(f"{target} written; use it with {usage}")


def _report(converted: Converted, every_name: bool) -> None:
    if every_name:
        for theirs, ours in converted.account.items():
            print(f"{theirs} -> {ours}")
    total, tables = len(converted.account), len(converted.tables)
    left_out = sum(ours.startswith("left out") for ours in converted.account.values())
    print(
        f"{total} names: {total - tables - left_out} in {FILE}, {tables} in {TABLES},"
        f" {left_out} left out"
    )


def pass_on(
    source_format: Format, target_format: Format, source: Path, target: Path, every_name: bool
) -> None:
    """Convert from one foreign format to another, with nothing of ours in between."""
    _refuse_one_way(target_format, "--to")
    converted, slot = source_format.read(source), target_format.converter.slot
    tensors, config = converted.tensors | converted.tables, converted.config
    if converted.slot == "model" and slot != "model":
        tensors, config = _inside(tensors, slot), config[slot]
    elif converted.slot != slot:
        raise UsageError(
            f"'{source_format.entry.key}' is a {converted.slot}, "
            f"'{target_format.entry.key}' a whole {slot}.",
            "wishbone convert --to",
            "Bring it in first, and use it in a system of yours.",
        )
    target_format.write(tensors, config, target)
    _report(converted, every_name)


def bring_out(target_format: Format, source: Path, target: Path) -> None:
    """Write a checkpoint of ours, or the part of it that the format is for, as theirs."""
    _refuse_one_way(target_format, "--out")
    slot = target_format.converter.slot
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
    target_format.write(tensors, config, target)


def _inside(tensors: dict[str, Tensor], slot: str) -> dict[str, Tensor]:
    """Return the tensors of one part of a model, by the part's own names."""
    prefix = f"{slot}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _refuse_one_way(target_format: Format, option: str) -> None:
    if target_format.one_way:
        raise UsageError(
            f"The format '{target_format.entry.key}' converts in one direction only.",
            f"wishbone convert {option}",
            "Leave it away.",
        )
