"""The packages of an extra: those that are absent, and the versions of those that are there."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from wishbone.core.contract.errors import MissingExtra
from wishbone.core.contract.extensions.metric import Package
from wishbone.core.contract.extensions.optional import INSTALL


def missing_packages(
    packages: Iterable[Package], purpose: str, home: bool = True, install: str = INSTALL
) -> None:
    """Raise ``MissingExtra`` that names all of ``packages`` that are not installed.

    None is imported: that costs seconds. ``install`` is the command of the extra that has them;
    ``home`` is False where a plug-in's part needs them.
    """
    absent = [package.distribution for package in packages if find_spec(package.module) is None]
    if absent:
        several = f"packages {', '.join(absent)} are" if absent[1:] else f"package {absent[0]} is"
        raise MissingExtra(
            f"The {several} needed to {purpose}, and not installed.",
            "wishbone evaluation",
            f"Run: {install if home else 'pip install ' + ' '.join(absent)}",
        )


def installed(distribution: str) -> str:
    """Return the version of a distribution, or ``"none"``."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"
