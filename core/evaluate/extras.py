"""Optional packages, asked for by name, with one sentence on how to get them."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from wishbone.core.errors import MissingExtra

INSTALL = 'pip install "wishbone-tts[ab]"'


def need(module: str, distribution: str, purpose: str) -> ModuleType:
    """Import ``module``; raises ``MissingExtra`` saying what ``distribution`` is wanted for."""
    try:
        return import_module(module)
    except ImportError as error:
        raise _missing(distribution, purpose, str(error)) from error


def folder_of(module: str, distribution: str, purpose: str) -> Path:
    """The folder of an installed package, without importing it; raises ``MissingExtra``.

    Some packages are wanted for the weights inside them only, and importing them costs seconds
    or fails beside newer versions of what they import.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise _missing(distribution, purpose, f"No module named '{module}'")
    return Path(spec.origin).parent


def installed(distribution: str) -> str:
    """Version of a distribution, or ``"none"``."""
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
