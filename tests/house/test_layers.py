"""Who may import whom, read from the source: the rule that keeps parts exchangeable."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("core", "plugins", "adapters", "kernels", "configs")
MAY_IMPORT = {
    "core": {"core"},
    "plugins": {"core", "kernels", "plugins"},
    "adapters": {"core", "adapters"},
    "kernels": {"kernels"},
    "configs": set(),
}
OUTSIDE_AT_TOP = {
    "core": {"torch", "numpy", "pluggy", "omegaconf", "torchaudio", "safetensors", "soundfile"},
    "kernels": {"torch", "triton", "filelock"},
    "adapters": {"torch"},
}
"""Packages a layer may import when it is imported itself; extras are imported inside functions."""
DRIVERS = {"data", "train", "evaluate", "serve", "cli"}
INNER = {"interfaces", "registry", "plugin", "config", "model", "pipeline", "sampling", "weights"}
"""Modules of core that never import a driver."""
LIGHT = (
    "core/__init__.py", "core/registry.py", "core/plugin.py", "core/errors.py", "core/cli.py",
    "plugins/__init__.py", "adapters/__init__.py", "core/wishbone/__init__.py",
)  # fmt: skip
"""Imported by ``wishbone --help``, so they import nothing heavy at the top."""


def imports(tree, top_only=False):
    """(line, dotted module) of every import; those for type checkers alone are never run."""
    found = []

    def visit(node, inside):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import) and not (top_only and inside):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not (top_only and inside):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            found.append((node.lineno, node.module))
            if node.module.startswith("wishbone"):
                found.extend((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, inside or function)

    visit(tree, False)
    return found


def broken_rules(name, source):
    """Every import of the file ``name`` (such as core/model.py) that breaks a rule, in words."""
    parts = Path(name).with_suffix("").parts
    layer, tree, wrong = parts[0], ast.parse(source), []
    if parts[:2] == ("core", "wishbone"):
        layer = "core"
    for line, module in imports(tree):
        pieces = module.split(".")
        if pieces[0] in LAYERS:
            wrong.append(f"{name}:{line} imports {module}; write wishbone.{module}")
        if pieces[0] != "wishbone" or len(pieces) < 2:
            continue
        if pieces[1] in LAYERS and pieces[1] not in MAY_IMPORT[layer]:
            allowed = ", ".join(sorted(MAY_IMPORT[layer])) or "nothing"
            wrong.append(f"{name}:{line} imports {module}; {layer}/ may import only {allowed}")
        if parts[0] == "core" and len(parts) == 2 and parts[1] in INNER and len(pieces) > 2:
            if pieces[1] == "core" and pieces[2] in DRIVERS:
                wrong.append(f"{name}:{line} imports the driver {module}")
        if layer == "plugins" and pieces[1] == "core" and len(pieces) > 2:
            # a recipe beside a plug-in may use a driver's tools, the plug-in itself may not
            if pieces[2] in DRIVERS and parts[-1] not in RECIPES:
                wrong.append(f"{name}:{line} imports the driver {module}")
    for line, module in imports(tree, top_only=True):
        package = module.split(".")[0]
        if package == "torchaudio" and name != "core/audio.py":
            wrong.append(f"{name}:{line} imports torchaudio; only core/audio.py may")
        if package in sys.stdlib_module_names or package == "wishbone":
            continue
        if package not in OUTSIDE_AT_TOP.get(layer, {package}):
            wrong.append(f"{name}:{line} imports {package} at the top; {layer}/ may not")
        if name in LIGHT and package != "pluggy":
            wrong.append(f"{name}:{line} imports {package}; this file is imported by --help")
    if name in LIGHT:
        for line, module in imports(tree, top_only=True):
            pieces = module.split(".")
            if pieces[0] == "wishbone" and len(pieces) > 2 and pieces[2] not in LIGHT_MODULES:
                wrong.append(f"{name}:{line} imports {module}; this file is imported by --help")
    return wrong


RECIPES = {"train", "corpus", "convert", "export", "recipe", "__main__"}
LIGHT_MODULES = {"errors", "registry", "plugin"}
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for layer in LAYERS
    for path in (ROOT / layer).rglob("*.py")
    if "templates" not in path.parts
)


@pytest.mark.parametrize("name", FILES)
def test_imports_keep_to_the_layers(name):
    assert broken_rules(name, (ROOT / name).read_text()) == []


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("core/model.py", "import wishbone.plugins.rwkv7.backbone", "may import only core"),
        (
            "core/model.py",
            "def f():\n    from wishbone.kernels import wkv7",
            "may import only core",
        ),
        ("core/pipeline.py", "from wishbone.core.serve import say", "the driver"),
        ("core/pipeline.py", "from wishbone.core import serve", "the driver"),
        ("adapters/x.py", "from wishbone.plugins import rwkv7", "may import only adapters, core"),
        ("kernels/w/__init__.py", "from wishbone.core.errors import X", "may import only kernels"),
        ("plugins/x/backbone.py", "from wishbone.adapters import cosyvoice2", "may import only"),
        ("plugins/x/backbone.py", "from wishbone.core.train import loop", "the driver"),
        ("core/model.py", "from core.registry import Registry", "write wishbone.core.registry"),
        ("core/text.py", "import torchaudio", "only core/audio.py"),
        ("core/text.py", "import rich", "imports rich at the top"),
        ("core/registry.py", "import torch", "imported by --help"),
        ("core/cli.py", "from wishbone.core.config import read", "imported by --help"),
    ],
)
def test_the_rules_are_seen_to_break(name, source, said):
    assert any(said in line for line in broken_rules(name, source))


def test_what_is_allowed_passes():
    source = (
        "import json\nimport torch\ndef f():\n    import rich\n    from wishbone.core import serve"
    )
    assert broken_rules("core/text.py", source) == []
