"""The contract of a contender: a program that ``wishbone bench`` measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from wishbone.core.contract.part import Part

Times = dict[str, list[float]]
"""Measure -> what was measured, in the measure's own unit; ``seconds`` is the usual one."""


@dataclass
class Job:
    """What a suite asks of all its contenders."""

    model: dict[str, Any]
    """The suite's ``model``: sizes, seed."""
    device: str = "cpu"
    threads: int = 1
    weights: str = ""
    """Folder with the files of weights, where the suite has them."""


class Contender(Part):
    """One side of a comparison. Subclasses carry a dataclass ``Config``, as every part does."""

    Config: ClassVar[type]

    def __init__(self, config: Any, job: Job) -> None:
        self.config = config
        self.job = job

    @classmethod
    def missing(cls, config: Any, job: Job) -> str:
        """Why it cannot run here and what to do, or an empty string. Imports nothing large."""
        return ""

    @classmethod
    def small_job(cls) -> tuple[Job, str] | None:
        """A job of tiny sizes and one of its cases, which the contract suite runs; None for none.

        Goes with ``small_config``, where the class has one.
        """
        return None

    @classmethod
    def files(cls, config: Any) -> tuple[str, ...]:
        """Names of the files of weights it reads from ``Job.weights``."""
        return ()

    def load(self) -> dict[str, Any]:
        """Make ready to run -> facts worth keeping: ``engine``, ``version``, ``step_bytes``."""
        raise NotImplementedError

    def prepare(self, case: str) -> dict[str, Any]:
        """Make one case ready -> facts of it: ``state_bytes``, ``resident_bytes``."""
        return {}

    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Tensors by name, flat, on which every contender of a suite must agree."""
        raise NotImplementedError

    def run(self, case: str, count: int) -> Times:
        """One round: ``count`` repetitions of ``case``, each timed."""
        raise NotImplementedError
