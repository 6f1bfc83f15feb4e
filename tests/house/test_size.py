"""Budgets that may only fall: modules in a folder of core."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 12
"""Modules of a folder, its ``__init__`` aside: so many names are read at a glance."""
FOLDERS = sorted(
    {path.parent for path in (ROOT / "core").rglob("*.py") if "templates" not in path.parts}
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_folder_is_read_at_a_glance(folder):
    modules = [path.name for path in folder.glob("*.py") if not path.name.startswith("__")]
    assert len(modules) <= MOST, sorted(modules)
