"""What the README says is so: its code runs, its paths and commands exist.

A Python block after the comment ``<!-- run -->`` is executed, in a folder of its own; every other
Python block is compiled.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from wishbone.core.registry.loader import registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LAYERS = ("core", "plugins", "adapters", "kernels", "configs", "tests", ".ci")
FENCE = re.compile(r"(<!-- run -->\s*\n)?```(\w*)\n(.*?)```", re.DOTALL)
BLOCKS = [(bool(run), language, body) for run, language, body in FENCE.findall(README)]
PYTHON = [(run, body) for run, language, body in BLOCKS if language in ("python", "py")]
RUNNABLE = [body for run, body in PYTHON if run]
CODE = [body for _, _, body in BLOCKS] + re.findall(r"`([^`\n]+)`", FENCE.sub("", README))
"""Everything set as code, in blocks and in lines."""


def paths(code):
    """Things that look like a path of this repository; ``<name>`` in them stands for anything."""
    folders = "|".join(re.escape(layer) for layer in LAYERS)
    return re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./<>*-]*)", code)


def commands(code):
    """Word lists of every call of ``wishbone``; lines that end in a backslash are joined."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        match = re.match(r"\s*(?:\$ )?(?:torchrun .*-m )?wishbone (.+)", line)
        if match:
            found.append(shlex.split(match[1].split(" # ")[0].split(" | ")[0]))
    return found


COMMAND_LINES = [words for code in CODE for words in commands(code)]


def test_there_is_a_readme():
    assert len(README) > 1000
    assert RUNNABLE and COMMAND_LINES


@pytest.mark.parametrize("body", [body for _, body in PYTHON], ids=range(len(PYTHON)))
def test_python_compiles(body):
    compile(body, "README.md", "exec")


@pytest.mark.parametrize("body", RUNNABLE, ids=range(len(RUNNABLE)))
def test_python_runs(body, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", body], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted({p for code in CODE for p in paths(code)}))
def test_every_path_exists(path):
    pattern = re.sub(r"<[^>]*>", "*", path.rstrip("./")) or path
    assert list(ROOT.glob(pattern)), path


@pytest.mark.parametrize("words", COMMAND_LINES, ids=lambda words: " ".join(words)[:60])
def test_every_command_and_option_exists(words):
    if words[0].startswith("-") or words[0].startswith("acme/"):
        # a vendor's command, which is there once the package that the text describes is written
        return
    assert words[0] in registry().names("command")
    options = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
    if len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
        known = help_of(words[0]) + help_of(words[0], words[1])
    else:
        known = help_of(words[0])
    for option in options - {"--traceback", "--help"}:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), option


@cache
def help_of(*words):
    done = subprocess.run(
        [sys.executable, "-m", "wishbone", *words, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    return done.stdout


NAMES = sorted({n for code in CODE for n in re.findall(r"\b([A-Z]\w+\.[a-z_]\w*)\b", code)})


@pytest.mark.parametrize("name", NAMES)
def test_every_method_of_a_contract_exists(name):
    holder, _, attribute = name.partition(".")
    if attribute in ("md", "yaml", "yml", "toml", "py"):
        return
    homes = [path for path in (ROOT / "core").rglob("*.py") if defines(path, holder)]
    assert homes, f"nothing is called {holder}"
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in homes]
    classes = [getattr(importlib.import_module(f"wishbone.{module}"), holder) for module in modules]
    assert any(
        hasattr(cls, attribute) or attribute in getattr(cls, "__annotations__", {})
        for cls in classes
    )


def defines(path, name):
    return re.search(rf"^class {name}\b", path.read_text(), re.MULTILINE) is not None


def test_a_wrong_path_and_a_wrong_command_are_seen():
    assert paths("see `core/gone.py` and plugins/<name>/backbone.py") == [
        "core/gone.py",
        "plugins/<name>/backbone.py",
    ]
    assert not list(ROOT.glob("core/gone.py"))
    assert commands("$ wishbone sya 'hello you' \\\n  --out x # why\n") == [
        ["sya", "hello you", "--out", "x"]
    ]
