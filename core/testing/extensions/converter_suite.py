"""Suite of formats of ``wishbone convert``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.errors import WishboneError
from wishbone.core.contract.extensions.converter import Converted, Converter
from wishbone.core.registry.registry import KINDS
from wishbone.core.testing.common import Check, Skipped, Violation, require

MODEL = "model"


def contract(cls: Any, config: Any, module: str | None) -> str:
    """The class is made without arguments and says which kind of part it is for."""
    require(
        issubclass(cls, Converter),
        "the class is no wishbone.core.contract.extensions.converter.Converter",
    )
    slot = getattr(cls(), "slot", None)
    require(slot in (*KINDS, MODEL), f"slot is {slot!r}, neither a kind of part nor '{MODEL}'")
    return f"{slot}"


def refuses(cls: Any, config: Any, module: str | None) -> str:
    """Files and folders of other formats are refused by a ``WishboneError``."""
    with TemporaryDirectory() as place:
        sources = _strange(Path(place))
        for name, source in sources.items():
            try:
                cls().read(source)
            except WishboneError:
                continue
            except Exception as error:
                raise Violation(f"{name} raises {type(error).__name__}: {error}") from error
            raise Violation(f"{name} is read as if it were of this format")
    return f"{len(sources)} sources"


def _strange(place: Path) -> dict[str, Path]:
    """Files and folders of no format."""
    (place / "empty").mkdir()
    (place / "other").mkdir()
    (place / "other/config.json").write_text("{}")
    (place / "other/readme.txt").write_text("nothing of yours")
    (place / "noise").write_bytes(bytes(range(256)))
    return {
        "a path where nothing is": place / "nowhere",
        "an empty folder": place / "empty",
        "a folder of somebody else": place / "other",
        "a file of noise": place / "noise",
    }


def example(cls: Any, config: Any, module: str | None) -> str:
    """Its own example is read: a configuration that can be built from, and an account of names."""
    with TemporaryDirectory() as place:
        converted = _read_example(cls, Path(place))
        require(
            converted.slot == cls().slot,
            f"read() says slot '{converted.slot}', the class '{cls().slot}'",
        )
        require(bool(converted.tensors), "read() gives no tensors")
        require(bool(converted.account), "read() gives no account of the file's names")
        if converted.slot != MODEL:
            parse_slot({converted.slot: converted.config}, converted.slot)
        return f"{len(converted.tensors)} tensors"


def round_trip(cls: Any, config: Any, module: str | None) -> str:
    """Written and read again, every tensor has its bits and the configuration is the same."""
    if getattr(cls, "write", Converter.write) is Converter.write:
        raise Skipped("converts in one direction only")
    with TemporaryDirectory() as place:
        first = _read_example(cls, Path(place))
        target = Path(place) / "written"
        cls().write(first.tensors | first.tables, first.config, target)
        second = cls().read(target)
        require(second.config == first.config, f"{first.config} came back as {second.config}")
        _same(first.tensors, second.tensors)
        _same(first.tables, second.tables)
    return "bit for bit"


def _read_example(cls: Any, place: Path) -> Converted:
    source = place / "example"
    if not cls().write_example(source):
        raise Skipped("offers no example (write_example)")
    converted = cls().read(source)
    kind = type(converted).__name__
    require(isinstance(converted, Converted), f"read() returns a {kind}, not a Converted")
    return converted


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    require(first.keys() == second.keys(), f"names differ: {sorted(first.keys() ^ second.keys())}")
    for name, tensor in first.items():
        equal = tensor.dtype == second[name].dtype and torch.equal(tensor, second[name])
        require(equal, f"{name} came back with other numbers")


CHECKS = (
    Check("contract", "A class without arguments, for a kind of part.", contract),
    Check("refuses", "Files of other formats raise a WishboneError.", refuses),
    Check("example", "Its own example becomes a part that can be configured.", example),
    Check("round_trip", "Written and read again, nothing has changed.", round_trip),
)
