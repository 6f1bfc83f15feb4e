"""Optional packages: their import, and an error that says how to install them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

from wishbone.core.contract.errors import MissingExtra
from wishbone.core.contract.metric import Package

INSTALL = 'pip install "wishbone-tts[ab]"'


def need(module: str, distribution: str, purpose: str) -> ModuleType:
    """Import ``module``. Raises ``MissingExtra`` with the ``purpose`` of ``distribution``."""
    try:
        return import_module(module)
    except ImportError as error:
        raise _missing(distribution, purpose, str(error)) from error


def missing_packages(packages: Iterable[Package], purpose: str, home: bool = True) -> None:
    """Raise ``MissingExtra`` that names all of ``packages`` that are not installed.

    None is imported: that costs seconds. ``home`` is False where a plug-in's part needs them.
    """
    absent = [package.distribution for package in packages if find_spec(package.module) is None]
    if absent:
        several = f"packages {', '.join(absent)} are" if absent[1:] else f"package {absent[0]} is"
        raise MissingExtra(
            f"The {several} needed to {purpose}, and not installed.",
            "wishbone evaluation",
            f"Run: {INSTALL if home else 'pip install ' + ' '.join(absent)}",
        )


def installed(distribution: str) -> str:
    """Return the version of a distribution, or ``"none"``."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"


def _missing(distribution: str, purpose: str, cause: str) -> MissingExtra:
    return MissingExtra(
        f"The package '{distribution}' is needed to {purpose}, and cannot be imported ({cause}).",
        "wishbone evaluation",
        f"Run: {INSTALL}",
    )
