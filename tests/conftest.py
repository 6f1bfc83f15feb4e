"""Keeps the repository's root off the import path.

``python -m pytest`` puts it there, and then ``import kernels`` in somebody else's package (the
transformers library looks for one of this name) finds our folder instead of nothing.
"""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.fixture
def register(monkeypatch):
    """Put a part into the registry for one test: ``register(kind, key, "module:Class")``."""
    from wishbone.core.plugin import registry
    from wishbone.core.registry import HOME, Entry

    def add(kind, key, target, distribution=HOME):
        entry = Entry(kind, key, target, "for a test", distribution, "0.2")
        monkeypatch.setitem(registry()._entries, (kind, key), entry)
        return entry

    return add
