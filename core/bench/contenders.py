"""The sides of a benchmark, parts of kind ``contender``; a configuration never names code.

A contender lives in a process of its own, so that its libraries, threads and memory are its own.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from wishbone.core.contract.errors import UnknownName
from wishbone.core.registry.loader import registry
from wishbone.core.registry.registry import Entry

INSTALL = 'pip install "wishbone-tts[bench]"'


def contender_entry(name: str, where: str) -> Entry:
    """Return the registered contender of that name.

    Raises ``UnknownName`` saying which there are, ``PluginError`` for one that a plug-in broke.
    """
    try:
        return registry().entry("contender", name)
    except UnknownName as error:
        raise UnknownName(error.what, where, error.do) from error


def version_of(distribution: str) -> str:
    """Return the version of an installed distribution, or an empty string."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def resident_bytes() -> int:
    """Return the memory of this process now, 0 where that cannot be read."""
    return _kibibytes("/proc/self/status", "VmRSS")


def peak_bytes() -> int:
    """Return the most memory this process ever held, 0 where that cannot be read."""
    return _kibibytes("/proc/self/status", "VmHWM")


def available_bytes() -> int:
    """Return the memory that the system could still give, 0 where that cannot be read."""
    return _kibibytes("/proc/meminfo", "MemAvailable")


def _kibibytes(path: str, name: str) -> int:
    try:
        with open(path, encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
    except (OSError, StopIteration):
        return 0
