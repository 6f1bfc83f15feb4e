"""The imports of this repository as a graph, with those inside functions and for type checkers."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("core", "plugins", "adapters", "kernels")
ROOMS = (
    "wishbone", "cli", "serve", "bench", "testing", "evaluate", "train", "data", "speak", "system",
    "model", "weights", "scale", "config", "registry", "audio", "report", "contract",
)  # fmt: skip
"""Packages of core from the front door down: each imports only what stands behind it here."""
LAZY_ROOMS = {"wishbone", "cli"}
"""Packages that may import inside functions, so that ``wishbone --help`` answers at once."""


def dotted(path):
    """Import name of a source file: core/speak/voice.py is wishbone.core.speak.voice."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[:2] == ["core", "wishbone"]:
        parts = parts[2:]
    if parts and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(["wishbone", *parts])


def sources():
    """Import name -> file of every module outside of templates."""
    files = (path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py")))
    return {dotted(path): path for path in files if "templates" not in path.parts}


def imports(tree, modules):
    """(line, module, is deferred) of every import of one of ``modules``.

    An import of a name counts as one of the module that it stands in. Type checkers' imports are
    deferred ones.
    """
    result = []

    def visit(node, deferred):
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name in modules else node.module for name in names]
        result.extend((node.lineno, name, deferred) for name in targets if name in modules)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, deferred or function or typing_only)

    visit(tree, False)
    return result


def graph(modules):
    """Module -> {imported module: line}; a package's ``__init__`` is no part of its modules."""
    edges = {name: {} for name in modules}
    for name, path in modules.items():
        for line, target, _ in imports(ast.parse(path.read_text()), modules):
            if target != name:
                edges[name].setdefault(target, line)
    return edges


def circles(edges):
    """Groups of modules that import each other, by Tarjan's algorithm."""
    index, low, stack, groups = {}, {}, [], []

    def visit(name):
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in edges[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            start = stack.index(name)
            group = stack[start:]
            del stack[start:]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in edges:
        if name not in index:
            visit(name)
    return groups


def room(module):
    """Package of core that a module is in; None for another layer's, "" for core's own module."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return "wishbone"
    if parts[1] != "core":
        return None
    return parts[2] if len(parts) > 2 else ""


def upward(edges):
    """Imports of core that go up the list of ``ROOMS``, in words."""
    wrong = []
    for name, targets in edges.items():
        for target, line in targets.items():
            pair = (room(name), room(target))
            if all(each in ROOMS for each in pair) and ROOMS.index(pair[0]) > ROOMS.index(pair[1]):
                wrong.append(f"{name}:{line} imports {target}: {pair[0]} stands below {pair[1]}")
    return wrong
