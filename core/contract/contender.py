"""The contract of a contender: a program that ``wishbone bench`` measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wishbone.core.contract.part import Part

Times = dict[str, list[float]]
"""Measure -> one number a repetition, in the measure's own unit; ``seconds`` is the usual one."""


@dataclass
class Job:
    """A suite's settings, the same for all its contenders."""

    model: dict[str, Any]
    """The suite's ``model``: sizes, seed."""
    device: str = "cpu"
    """Of PyTorch."""
    threads: int = 1
    """CPU threads that it may use."""
    weights: str = ""
    """Folder with the files of weights, where the suite has them."""


class Contender(Part):
    """One side of a comparison. ``Config`` is the schema of an entry of ``contenders``."""

    def __init__(self, config: Any, job: Job) -> None:
        self.config = config
        self.job = job

    @classmethod
    def missing(cls, config: Any, job: Job) -> str:
        """Return why it cannot run here and the remedy, or "". Imports nothing large."""
        return ""

    @classmethod
    def small_job(cls) -> tuple[Job, str] | None:
        """Return a job of tiny sizes and one of its cases for the contract suite; None for none.

        Goes with ``small_config``, where the class has one.
        """
        return None

    @classmethod
    def files(cls, config: Any) -> tuple[str, ...]:
        """Return names of the files of weights that it reads from ``Job.weights``."""
        return ()

    def load(self) -> dict[str, Any]:
        """Load the model -> facts for the result: ``engine``, ``version``, ``step_bytes``."""
        raise NotImplementedError

    def prepare(self, case: str) -> dict[str, Any]:
        """Prepare one case, untimed -> facts of it: ``state_bytes``, ``resident_bytes``."""
        return {}

    def check(self, what: Mapping[str, Any]) -> dict[str, list[float]]:
        """Compute flat tensors, by name, on which every contender of a suite must agree.

        ``what`` is the suite's section ``check``. Raises ``NotImplementedError`` without any.
        """
        raise NotImplementedError

    def run(self, case: str, count: int) -> Times:
        """Run one round: ``count`` repetitions of ``case``, each timed."""
        raise NotImplementedError
