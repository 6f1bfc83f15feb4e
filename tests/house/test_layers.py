"""Imports: layers, the rooms of core from top to bottom, no circle, nothing hidden in functions."""

import ast
import sys

import import_graph
import pytest
from import_graph import LAYERS, LAZY_ROOMS, ROOMS, ROOT, circles, dotted, graph, imports, room

MODULES = import_graph.sources()
EDGES = graph(MODULES)
MAY_IMPORT = {
    "core": {"core"},
    "plugins": {"core", "kernels", "plugins"},
    "adapters": {"core", "adapters"},
    "kernels": {"kernels"},
    "configs": set(),
}
OUTSIDE_AT_TOP = {
    "core": {"torch", "numpy", "pluggy", "omegaconf", "torchaudio", "safetensors", "soundfile",
             "scipy", "filelock"},
    "kernels": {"torch", "triton", "filelock"},
    "adapters": {"torch"},
}  # fmt: skip
"""Packages a layer may import when it is imported itself; extras are imported inside functions."""
EXTRAS_AT_TOP = {
    "core/serve/web": {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"},
}
"""Folder -> packages of an extra that it may import at the top: FastAPI reads the types of a route
from its module, and nothing but the command, inside a function, imports the folder."""
DRIVERS = ("cli", "bench", "evaluate", "train", "data")
"""Rooms of core that a plug-in may not import, unless it is a recipe beside a plug-in."""
RECIPES = {"train", "corpus", "convert", "export", "recipe", "command", "__main__"}
EXTENDS = {
    "plugins/bench_peers": {"bench"}, "plugins/corpora": {"data"}, "plugins/metrics": {"evaluate"},
    "plugins/aligner": {"cli", "data"}, "plugins/reference_codecs": {"evaluate"},
}  # fmt: skip
"""Folder of plug-ins that extend a driver -> the drivers they may import."""
LIGHT = ("wishbone", "wishbone.core", "wishbone.core.cli.main", "wishbone.plugins",
         "wishbone.adapters", "wishbone.core.registry.registry", "wishbone.core.registry.loader",
         "wishbone.core.contract.errors", "wishbone.core.registry.built_in")  # fmt: skip
"""Imported by ``wishbone --help``, so nothing heavy may come with them."""
HEAVY = {"torch", "numpy", "omegaconf", "torchaudio", "safetensors", "soundfile", "matplotlib"}


def top_level(tree):
    """(line, module) of every import that runs when the file is imported."""
    result = []

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            result.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            result.append((node.lineno, node.module or ""))
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                visit(child)

    visit(tree)
    return result


def broken_rules(name, source):
    """Every import of the file ``name`` (such as core/audio/files.py) that breaks a rule."""
    layer, folder = name.split("/")[0], "/".join(name.split("/")[:2])
    stem, tree, wrong = name.rsplit("/", 1)[-1].removesuffix(".py"), ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            wrong.append(f"{name}:{node.lineno} imports relatively")
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] in (*LAYERS, "configs"):
                wrong.append(f"{name}:{node.lineno} imports {module}; write wishbone.{module}")
            if parts[0] != "wishbone" or len(parts) < 2:
                continue
            if parts[1] in MAY_IMPORT and parts[1] not in MAY_IMPORT[layer]:
                allowed = ", ".join(sorted(MAY_IMPORT[layer])) or "nothing"
                wrong.append(
                    f"{name}:{node.lineno} imports {module}; {layer}/ may import only {allowed}"
                )
            driver = parts[2] if parts[1] == "core" and len(parts) > 2 else ""
            extends = EXTENDS.get(folder, set())
            if layer != "core" and driver in DRIVERS and driver not in extends:
                if stem not in RECIPES and "/bench" not in name:
                    wrong.append(f"{name}:{node.lineno} imports the driver {module}")
    for line, module in top_level(tree):
        package = module.split(".")[0]
        if package in sys.stdlib_module_names or package == "wishbone":
            continue
        extras = EXTRAS_AT_TOP.get(name.rsplit("/", 1)[0], set())
        if package not in OUTSIDE_AT_TOP.get(layer, {package}) | extras:
            wrong.append(f"{name}:{line} imports {package} at the top; {layer}/ may not")
    return wrong


FILES = sorted(path.relative_to(ROOT).as_posix() for path in MODULES.values())


@pytest.mark.parametrize("name", FILES)
def test_imports_keep_to_the_layers(name):
    assert broken_rules(name, (ROOT / name).read_text()) == []


def test_an_extra_at_the_top_comes_only_when_its_command_runs():
    edges = {
        name: targets
        for name, targets in EDGES.items()
        if not name.startswith("wishbone.core.serve.web")
    }
    users = {
        n for n, to in edges.items() if any(t.startswith("wishbone.core.serve.web") for t in to)
    }
    assert users == {"wishbone.core.cli.speech.serve"}


def test_every_room_of_core_is_in_the_picture():
    rooms = {room(name) for name in MODULES} - {None, ""}
    assert rooms == set(ROOMS)
    loose = [name for name in MODULES if room(name) == "" and name != "wishbone.core"]
    assert loose == [], "core holds packages, no modules of its own"


def test_a_room_imports_only_what_stands_below_it():
    assert import_graph.upward(EDGES) == []


def test_no_module_imports_itself_by_way_of_others():
    assert circles(EDGES) == []


@pytest.mark.parametrize("name", sorted(n for n in MODULES if room(n) not in (None, *LAZY_ROOMS)))
def test_core_imports_itself_at_the_top(name):
    """An import inside a function hides a circle, or hides where a name comes from."""
    tree = ast.parse(MODULES[name].read_text())
    hidden = [f"line {line}: {target}" for line, target, late in imports(tree, MODULES) if late]
    assert hidden == []


def heavy(name, seen):
    """Heavy packages that come along when the module ``name`` is imported."""
    if name in seen:
        return set()
    seen.add(name)
    result = set()
    for _, module in top_level(ast.parse(MODULES[name].read_text())):
        result |= {module.split(".")[0]} & HEAVY
        if module in MODULES:
            result |= heavy(module, seen)
    return result


@pytest.mark.parametrize("name", LIGHT)
def test_help_needs_nothing_heavy(name):
    assert heavy(name, set()) == set()


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("core/model/x.py", "import wishbone.plugins.rwkv7.backbone", "may import only core"),
        ("core/model/x.py", "def f():\n    from wishbone.kernels import wkv7", "only core"),
        ("adapters/x.py", "from wishbone.plugins import rwkv7", "may import only adapters, core"),
        ("kernels/w/__init__.py", "from wishbone.core.contract.errors import X", "only kernels"),
        ("plugins/x/backbone.py", "from wishbone.adapters import cosyvoice2", "may import only"),
        ("plugins/x/backbone.py", "from wishbone.core.train import loop", "the driver"),
        ("core/model/x.py", "from core.registry import Registry", "write wishbone.core.registry"),
        ("core/speak/x.py", "import rich", "imports rich at the top"),
        ("core/speak/x.py", "from . import voice", "relatively"),
    ],
)
def test_the_rules_are_seen_to_break(name, source, said):
    assert any(said in line for line in broken_rules(name, source))


def test_a_circle_and_a_way_up_are_seen():
    edges = {
        "wishbone.core.model.a": {"wishbone.core.speak.b": 3},
        "wishbone.core.speak.b": {"wishbone.core.model.a": 1},
        "wishbone.core.model.c": {},
    }
    assert circles(edges) == [["wishbone.core.model.a", "wishbone.core.speak.b"]]
    assert len(import_graph.upward(edges)) == 1


def test_imports_in_functions_and_for_type_checkers_count():
    source = (
        "if TYPE_CHECKING:\n    from wishbone.core.a import X\n"
        "def f():\n    import wishbone.core.a\n"
        "from wishbone.core import a\n"
    )
    seen = imports(ast.parse(source), {"wishbone.core.a": None})
    assert [late for _, _, late in seen] == [True, True, False]
    assert dotted(ROOT / "core/speak/voice.py") == "wishbone.core.speak.voice"
