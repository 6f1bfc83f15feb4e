"""One vocabulary: field terms for names, docstrings that begin with what a thing does or is."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("core", "plugins", "adapters", "kernels")
VAGUE = frozenset(
    "found said made each kept whole own told given heard asked wanted known here there theirs"
    " mine rest fresh begun gone done taken left seen shown named".split()
)
"""Names that say how a value came about and not what it is."""
QUESTIONS = ("What", "Who", "Whose", "Whether", "How", "Where", "When", "Which", "Why")
MOST = 0.01
"""Share of the names, and of the docstrings, that may break the rule; nine peers: 0 to 1.7 %."""


def sources(layer):
    return [path for path in sorted((ROOT / layer).rglob("*.py")) if "templates" not in path.parts]


def assigned(tree):
    """Every name that a statement assigns to, and every argument of a public function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def openings(tree):
    """First word of every docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield re.split(r"\W", text, maxsplit=1)[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_names_say_what_a_value_is(layer):
    counts = Counter(
        name for path in sources(layer) for name in assigned(ast.parse(path.read_text()))
    )
    vague = {name: count for name, count in counts.items() if name.strip("_") in VAGUE}
    assert sum(vague.values()) <= MOST * sum(counts.values()), vague


@pytest.mark.parametrize("layer", LAYERS)
def test_docstrings_begin_with_a_verb_or_a_noun(layer):
    words, questions = 0, []
    for path in sources(layer):
        for word in openings(ast.parse(path.read_text())):
            words += 1
            if word in QUESTIONS:
                questions.append(f"{path.relative_to(ROOT)}: {word}")
    assert len(questions) <= MOST * words, questions


def test_no_two_modules_of_core_share_a_name():
    names = Counter(path.stem for path in sources("core") if not path.stem.startswith("__"))
    shared = {name for name, count in names.items() if count > 1}
    # a command and what it runs are one thing seen from two sides
    commands = {path.stem for path in (ROOT / "core/cli").rglob("*.py")}
    assert shared - commands == set()


def test_a_vague_name_and_a_question_are_seen():
    tree = ast.parse('def f():\n    """Where it is."""\n    found = 1')
    assert [name for name in assigned(tree) if name in VAGUE] == ["found"]
    assert [word for word in openings(tree) if word in QUESTIONS] == ["Where"]
