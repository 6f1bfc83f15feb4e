"""The contract of a contender: a program that ``wishbone bench`` measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wishbone.core.contract.part import Part

if TYPE_CHECKING:
    # a contender's process may well do without torch
    from torch import Tensor

Times = dict[str, list[float]]
"""Measure -> the measured values, in the measure's own unit; ``seconds`` is the usual one."""


@dataclass
class Job:
    """The work that a suite gives to all its contenders."""

    model: dict[str, Any]
    """The suite's ``model``: sizes, seed."""
    device: str = "cpu"
    threads: int = 1
    weights: str = ""
    """Folder with the files of weights, where the suite has them."""


class Contender(Part):
    """One side of a comparison. Subclasses carry a dataclass ``Config``, as every part does."""

    Config: ClassVar[type]
    distributions: ClassVar[tuple[str, ...]] = ()
    """Installed packages that it computes with; their versions stand in the result."""

    distributions: ClassVar[tuple[str, ...]] = ()
    """Installed packages that it computes with; their versions stand in the result."""

    def __init__(self, config: Any, job: Job) -> None:
        self.config = config
        self.job = job

    @classmethod
    def missing(cls, config: Any, job: Job) -> str:
        """Say why it cannot run here and what to do; empty where it can. Imports nothing large."""
        return ""

    @classmethod
    def small_job(cls) -> tuple[Job, str] | None:
        """Return a job of tiny sizes and one of its cases for the contract suite; None for none.

        Goes with ``small_config``, where the class has one.
        """
        return None

    @classmethod
    def files(cls, config: Any) -> tuple[str, ...]:
        """Return the names of the files of weights that it reads from ``Job.weights``."""
        return ()

    @classmethod
    def write_file(
        cls, path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> None:
        """Write a suite's random weights as ``path``, named as one of ``files``, in its format.

        ``tensors`` are those of the suite's backbone, by Wishbone's names, with the tables
        ``tables.embedding`` and ``tables.head`` [X, D]; ``config`` is the backbone's. A name that
        several contenders share is written once.
        """
        raise NotImplementedError(f"{cls.__name__} reads {path.name} and cannot write it")

    def load(self) -> dict[str, Any]:
        """Make ready to run -> facts worth keeping: ``engine``, ``version``, ``step_bytes``."""
        raise NotImplementedError

    def prepare(self, case: str) -> dict[str, Any]:
        """Make one case ready -> facts of it: ``state_bytes``, ``resident_bytes``."""
        return {}

    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Return tensors by name, flat, on which every contender of a suite must agree."""
        raise NotImplementedError

    def run(self, case: str, count: int) -> Times:
        """Time ``count`` repetitions of ``case``: one round."""
        raise NotImplementedError
