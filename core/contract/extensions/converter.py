"""The contract of a converter: weights of another project to our names, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.contract.errors import UsageError

TABLES = "tables.safetensors"
"""File for ``Converted.tables``: tables of a vocabulary, which no slot of a system holds."""


@dataclass
class Converted:
    """A foreign file by our names."""

    slot: str
    """Kind of part the tensors belong to, or "model"."""
    config: dict[str, Any]
    """The slot's section of a system's configuration; for a model, layout, backbone and head."""
    tensors: dict[str, Tensor]
    """Weights of the part, by our names."""
    tables: dict[str, Tensor] = field(default_factory=dict)
    """Other tensors to store beside the part."""
    account: dict[str, str] = field(default_factory=dict)
    """Every name in the foreign file -> our name, or the reason why it is left out."""


class Converter(ABC):
    """The contract of a format: files of another project to our names, and back where it can.

    Made without arguments. Tensors keep their bits in both directions.
    """

    slot: str
    """Kind of part it is for, or "model" for a whole language model."""

    @abstractmethod
    def read(self, source: Path) -> Converted:
        """Read a foreign file or folder. Raises ``CheckpointError`` for another format."""

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """Write ``tensors``, by our names and with tables, to the new file or folder ``to``.

        ``config`` is the slot's section. A format of one direction does not override this, which
        raises ``UsageError``.
        """
        raise UsageError(
            f"{type(self).__name__} converts in one direction only.",
            "wishbone convert",
            "Leave --out or --to away.",
        )

    def write_example(self, to: Path) -> bool:
        """Write a small file or folder of this format to ``to`` for the contract suite.

        Returns True where it did; a format without an example writes nothing.
        """
        return False
