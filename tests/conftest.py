"""Keeps the repository's root off the import path.

``python -m pytest`` puts it there, and then ``import kernels`` in somebody else's package (the
transformers library looks for one of this name) finds our folder instead of nothing.
"""

import runpy
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.fixture(scope="session", autouse=True)
def link_tree():
    """Make ``build/types`` for type checkers and editors."""
    (ROOT / "build").mkdir(exist_ok=True)
    with FileLock(ROOT / "build" / ".types.lock"):  # tests run in several processes
        runpy.run_path(str(ROOT / "tests/house/link_tree.py"))["make_link_tree"]()


@pytest.fixture(scope="session", autouse=True)
def built_steps():
    """Build the C++ steps before the first test, into the one cache that all tests share.

    So no test waits for a compiler or reads what is printed then, whatever folder it calls home,
    unless it names an empty cache itself.
    """
    from wishbone.kernels.linear import Native, NativeMissing
    from wishbone.kernels.linear.build import cache_folder, library
    from wishbone.plugins import engines
    from wishbone.plugins.rwkv7.engines.native import SOURCE as RWKV7
    from wishbone.plugins.stack.engines.native import SOURCE as STACK
    from wishbone.plugins.transformer.engines.native import SOURCE as TRANSFORMER

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISHBONE_CACHE", str(cache_folder().parent))
        try:
            Native(build=True)
            library("rwkv7", RWKV7, build=True)
            library("stack", STACK, build=True)
            library("transformer", TRANSFORMER, build=True)
        except NativeMissing as error:
            engines.note_once(str(error))
        yield


@pytest.fixture
def register(monkeypatch):
    """Put a part into the registry for one test: ``register(kind, key, "module:Class")``."""
    from wishbone.core.registry.loader import registry
    from wishbone.core.registry.registry import HOME, Entry

    def add(kind, key, target, distribution=HOME):
        entry = Entry(kind, key, target, "for a test", distribution, "0.2")
        monkeypatch.setitem(registry()._entries, (kind, key), entry)
        return entry

    return add
