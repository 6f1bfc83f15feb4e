"""What is in the tree is in the package, and nothing is imported under two names."""

import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("core", "plugins", "adapters", "kernels", "configs")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def found_packages():
    found = {"wishbone"}
    for layer in LAYERS:
        for init in (ROOT / layer).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if parts[:2] != ("core", "wishbone"):
                found.add(".".join(("wishbone", *parts)))
    return found


def test_every_package_is_listed():
    assert set(SETUPTOOLS["packages"]) == found_packages()


def test_the_list_is_free_of_repetition():
    assert len(SETUPTOOLS["packages"]) == len(set(SETUPTOOLS["packages"]))


@pytest.mark.parametrize("layer", LAYERS)
def test_every_data_file_is_shipped(layer):
    """A file that no pattern names works in a checkout and is missing from the wheel."""
    patterns = SETUPTOOLS["package-data"].get(f"wishbone.{layer}", [])
    missing = []
    for path in (ROOT / layer).rglob("*"):
        inside = path.relative_to(ROOT / layer)
        if path.is_dir() or path.suffix in (".py", ".pyc") or path.name == "py.typed":
            continue
        # explanations beside code are for readers of the source
        if layer != "configs" and path.name == "README.md":
            continue
        if not any(fnmatch(inside.as_posix(), p.replace("**/", "*")) for p in patterns):
            missing.append(path.relative_to(ROOT).as_posix())
    assert missing == []


def test_the_front_door_is_typed():
    assert (ROOT / "core/wishbone/py.typed").is_file()


@pytest.mark.parametrize("layer", ["core", "plugins", "adapters", "kernels"])
def test_a_layer_refuses_to_be_imported_by_its_folder(layer):
    """From the repository's root ``import core`` finds the folder: a second copy of every class."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {layer}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"import this as wishbone.{layer}" in done.stderr


def test_the_front_door_is_lazy_and_complete():
    code = (
        "import sys, wishbone\n"
        "assert not {'torch', 'omegaconf'} & set(sys.modules)\n"
        "assert wishbone.names('backbone')\n"
        "assert not {'torch', 'omegaconf'} & set(sys.modules)\n"
        "for name in wishbone.__all__: assert getattr(wishbone, name) is not None, name\n"
        "from wishbone.core.contract.backbone import Backbone\n"
        "assert wishbone.Backbone is Backbone\n"
        "assert set(wishbone.__all__) <= set(dir(wishbone))\n"
        "try: wishbone.nothing\n"
        "except AttributeError: pass\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
