"""Types: the packages that everything rests on pass the type checker, as editors run it."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from link_tree import FRONT_DOOR, LAYERS, ROOT, make_link_tree

CHECKED = ("contract", "registry", "config", "system", "speak", "testing")
"""Packages of core without a single error."""

needs_checker = pytest.mark.skipif(
    find_spec("basedpyright") is None, reason="the type checker: pip install 'wishbone-tts[dev]'"
)


def type_errors(*paths):
    """Lines of the checker that report an error in ``paths``, by the settings of pyproject.toml."""
    make_link_tree()
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    result = subprocess.run(
        [*command, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return [line.strip() for line in result.stdout.splitlines() if " error: " in line]


@needs_checker
def test_the_foundations_have_no_type_error():
    assert type_errors(*(f"core/{package}" for package in CHECKED)) == []


@needs_checker
def test_a_wrong_type_is_seen_through_the_link_tree(tmp_path):
    """The checker knows what a field of a contract is, so the import was resolved."""
    source = tmp_path / "part.py"
    source.write_text(
        "from wishbone.core.contract.codec import CodeSpace\n"
        "frames: str = CodeSpace(size=8, rate=12.5).rate\n"
    )
    (error,) = type_errors(source)
    assert "part.py:2" in error and '"float"' in error and '"str"' in error


def test_the_link_tree_has_every_layer_and_the_front_door(tmp_path):
    for folder in (FRONT_DOOR, *LAYERS):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    front_door = tmp_path / FRONT_DOOR / "__init__.py"
    front_door.write_text("NAME = 1\n")
    package = make_link_tree(tmp_path) / "wishbone"
    (package / "left_over").symlink_to(tmp_path)
    assert make_link_tree(tmp_path) / "wishbone" == package
    assert {link.name for link in package.iterdir()} == {"__init__.py", *LAYERS}
    assert (package / "__init__.py").read_text() == front_door.read_text()
    assert Path(package / "core" / "wishbone").samefile(tmp_path / FRONT_DOOR)
