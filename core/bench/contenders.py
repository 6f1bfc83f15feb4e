"""The sides of a benchmark, parts of kind ``contender``; a configuration never names code.

A contender lives in a process of its own, so that its libraries, threads and memory are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from wishbone.core.errors import UnknownName
from wishbone.core.plugin import registry
from wishbone.core.registry import Entry

INSTALL = 'pip install "wishbone-tts[bench]"'

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


class Contender:
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


def contender_entry(name: str, where: str) -> Entry:
    """The registered contender of that name.

    Raises ``UnknownName`` saying which there are, ``PluginError`` for one that a plug-in broke.
    """
    try:
        return registry().entry("contender", name)
    except UnknownName as error:
        raise UnknownName(error.what, where, error.do) from error


def version_of(distribution: str) -> str:
    """Of an installed distribution, or an empty string."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def resident_bytes() -> int:
    """Memory of this process now, 0 where that cannot be read."""
    return _kibibytes("/proc/self/status", "VmRSS")


def peak_bytes() -> int:
    """Most memory this process ever held, 0 where that cannot be read."""
    return _kibibytes("/proc/self/status", "VmHWM")


def available_bytes() -> int:
    """Memory that the system could still give, 0 where that cannot be read."""
    return _kibibytes("/proc/meminfo", "MemAvailable")


def _kibibytes(path: str, name: str) -> int:
    try:
        with open(path, encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
    except (OSError, StopIteration):
        return 0
