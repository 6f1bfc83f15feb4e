"""Optional packages: their import, and an error that says how to install them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from wishbone.core.contract.errors import MissingExtra

INSTALL = 'pip install "wishbone-tts[ab]"'


def need(module: str, distribution: str, purpose: str) -> ModuleType:
    """Import ``module``; raises ``MissingExtra`` that names ``distribution`` and the purpose."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"The package '{distribution}' is needed to {purpose}, and cannot be imported"
            f" ({error}).",
            "wishbone evaluation",
            f"Run: {INSTALL}",
        ) from error
