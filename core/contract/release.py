"""The contract of a release: a folder that another project published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn


@dataclass
class Found:
    """What a release has for a language model."""

    tensors: dict[str, Tensor]
    """By the names of the model at hand, all of them."""
    note: str = ""
    """What a person should know, such as which part the release could not give."""


class ReleaseReader(ABC):
    """The contract of a kind of folder: whether one is of it, and what it has for our parts.

    Made without arguments.
    """

    @abstractmethod
    def holds(self, folder: Path) -> bool:
        """Tell whether ``folder`` is of this kind, from names and small files; reads no weights.

        Asked of every folder that has no weights of ours, so it is never to raise.
        """

    @abstractmethod
    def language_model(self, folder: Path, model: nn.Module) -> Found:
        """Tensors for the model at hand, by its names. Raises ``CheckpointError``."""

    def voices(self, folder: Path) -> dict[str, Any]:
        """Voices that such a folder has, by name."""
        return {}

    def write_example(self, to: Path, model: nn.Module) -> bool:
        """Write a folder of this kind with the weights of ``model`` into ``to``, which is empty.

        For the contract suite, which reads it back. Returns whether it did; a kind that can offer
        none writes nothing.
        """
        return False
