"""The contract of a converter: weights of another project in, and out again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.contract.errors import UsageError

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


class Converter(ABC):
    """The contract of a format: files of another project to our terms, and back where it can.

    Made without arguments. Tensors keep their bits in both directions.
    """

    slot: str
    """Kind of part it is for, or "model" for a whole language model."""

    @abstractmethod
    def read(self, source: Path) -> Converted:
        """Read their file or folder. Raises ``CheckpointError`` where it is not of this format."""

    def write(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], to: Path) -> None:
        """Write a part by our names, tables included, as theirs to ``to``, which does not exist.

        ``config`` is the slot's section. Left out by a format that converts in one direction only.
        """
        raise UsageError(
            f"{type(self).__name__} converts in one direction only.",
            "wishbone convert",
            "Leave --out or --to away.",
        )

    def write_example(self, to: Path) -> bool:
        """Write a small file or folder of this format to ``to`` for the contract suite.

        Returns whether it did; a format that can offer none writes nothing.
        """
        return False
