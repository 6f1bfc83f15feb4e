"""The contracts of reading a release: a folder that another project published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass
class Found:
    """Weights that a release has for a language model."""

    tensors: dict[str, Tensor]
    """By the names of the model at hand, all of them."""
    note: str = ""
    """A sentence for people, such as which part is missing from the release; "" for none."""


class ReleaseReader(ABC):
    """The contract of a kind of folder: recognise one, and read a language model from it.

    Made without arguments.
    """

    @abstractmethod
    def holds(self, folder: Path) -> bool:
        """Return True for a folder of this kind, from names and small files; reads no weights.

        Asked of every folder that has no weights of ours, so it is never to raise.
        """

    @abstractmethod
    def language_model(self, folder: Path, model: nn.Module) -> Found:
        """Read tensors for ``model``, by its names. Raises ``CheckpointError`` for torn files."""

    def voices(self, folder: Path) -> dict[str, Any]:
        """Read the voices of such a folder: name -> ``wishbone.core.speak.voice.Voice``."""
        return {}

    def write_example(self, to: Path, model: nn.Module) -> bool:
        """Write a folder of this kind with the weights of ``model`` into ``to``, which is empty.

        For the contract suite, which reads it back. Returns whether it did; a kind that can offer
        none writes nothing.
        """
        return False


@runtime_checkable
class ReleasePart(Protocol):
    """A part that reads its own files from a release, such as a decoder with its vocoder."""

    def load_release(self, folder: Path) -> None:
        """Fill the part with the weights in ``folder``. Raises ``CheckpointError``."""
        ...
