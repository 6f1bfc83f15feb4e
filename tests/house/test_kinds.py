"""Every kind of part is complete: a contract, a consumer, a suite, a template and a built-in."""

import ast
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from wishbone.core.contract.backbone import Caps
from wishbone.core.registry import scaffold
from wishbone.core.registry.loader import registry
from wishbone.core.registry.registry import KINDS
from wishbone.core.testing import COMMON, LIGHT, suite

ROOT = Path(__file__).parents[2]
CONTRACTS = {
    "tokenizer": "text:Tokenizer",
    "speech_tokenizer": "codec:SpeechTokenizer",
    "layout": "layout:Layout",
    "backbone": "backbone:Backbone",
    "mixer": "stack.mixer:Mixer",
    "ffn": "stack.mixer:Mixer",
    "head": "head:Head",
    "decoder": "codec:Decoder",
    "teacher": "extensions.teacher:Teacher",
    "objective": "extensions.objective:Objective",
    "metric": "extensions.metric:Metric",
    "corpus": "extensions.corpus:CorpusFormat",
    "converter": "extensions.converter:Converter",
    "release": "extensions.release:ReleaseReader",
    "contender": "extensions.contender:Contender",
    "command": "extensions.command:Command",
}
"""Kind -> the class or protocol in ``core/contract`` that its parts keep."""
NOT_CONSUMERS = {"registry.py", "built_in.py", "scaffold.py"}
READS_REGISTRY = ("registry()", "search(", "parse_slot(", "parse_slots(", "parse_nested(")
"""Calls that get a part from the registry, by its kind or by the slot of that name."""


def core_files():
    """Sources of core that are no contract, suite or template."""
    skipped = {"contract", "testing", "templates"}
    paths = sorted((ROOT / "core").rglob("*.py"))
    return [path for path in paths if not skipped & set(path.relative_to(ROOT).parts)]


def test_every_kind_is_in_the_table():
    assert set(CONTRACTS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_a_documented_contract(kind):
    module, _, name = CONTRACTS[kind].partition(":")
    contract = getattr(import_module(f"wishbone.core.contract.{module}"), name)
    assert contract.__doc__
    assert contract.__module__ == f"wishbone.core.contract.{module}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_asks_of_every_built_in_part_what_it_is(kind):
    """A part derives from the class of its contract; a command is a function."""
    module, _, name = CONTRACTS[kind].partition(":")
    contract = getattr(import_module(f"wishbone.core.contract.{module}"), name)
    entry = registry().of(kind)[0]
    part = registry().get(kind, entry.key)
    assert callable(part) if kind == "command" else issubclass(part, contract)


@pytest.mark.parametrize("kind", KINDS)
def test_core_gets_it_from_the_registry(kind):
    """The kind's name stands in a file that reads the registry, or the configuration's slots."""
    consumers = [
        path.name
        for path in core_files()
        if path.name not in NOT_CONSUMERS
        and f'"{kind}"' in (text := path.read_text())
        and any(call in text for call in READS_REGISTRY)
    ]
    assert consumers


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_a_suite_of_its_own(kind):
    checks = [check for check in suite(kind) if check not in (*COMMON, LIGHT)]
    assert len(checks) >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_a_template(kind):
    assert kind in scaffold.kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_wishbone_brings_one_by_the_same_door(kind):
    assert [entry for entry in registry().of(kind) if entry.distribution == "wishbone-tts"]


@pytest.mark.parametrize("capability", [field.name for field in fields(Caps)])
def test_every_capability_is_asked_for_by_a_feature(capability):
    """Through ``require`` or ``require_caps``, outside the contract and its suites."""
    files = [*core_files(), *(ROOT / "plugins").rglob("*.py")]
    assert [
        path.name
        for path in files
        if f'"{capability}"' in (text := path.read_text()) and "require" in text
    ]


def contract_imports(name, source):
    """Modules that a file of ``core/contract`` imports and may not."""
    allowed = ("wishbone.core.contract.", "torch", "numpy", "scipy")
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
    standard = import_module("sys").stdlib_module_names
    return [m for m in modules if m.split(".")[0] not in standard and not m.startswith(allowed)]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "core/contract").rglob("*.py")), ids=lambda p: p.name
)
def test_a_contract_imports_only_contracts(path):
    assert contract_imports(path.name, path.read_text()) == []


def test_another_import_of_a_contract_is_seen():
    source = "import torch\nfrom wishbone.core.model import wrapper\nimport omegaconf\n"
    assert contract_imports("x.py", source) == ["wishbone.core.model", "omegaconf"]


NOT_OF_A_PART = {
    "WISHBONE_API", "wishbone_register", "wishbone_doctor",  # of a plug-in's module, not of a part
    "problem", "problem_mark", "value",  # PyYAML
    "getloadavg", "sched_getaffinity", "buffer", "item", "to_local", "unshard",  # os, NumPy, torch
    "values",  # of a column of pyarrow
}  # fmt: skip
"""Names read from objects that no plug-in makes."""


def looked_up(source):
    """Literal names that ``getattr`` and ``hasattr`` look for."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            if len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                yield node.args[1].value


def stands_in_the_contract(name):
    """True where a contract defines ``name`` or quotes it in a docstring."""
    for path in (ROOT / "core/contract").rglob("*.py"):
        text = path.read_text()
        if f"``{name}``" in text or f"def {name}(" in text or f"    {name}:" in text:
            return True
    return False


@pytest.mark.parametrize("path", core_files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_core_reads_from_a_part_what_its_contract_names(path):
    names = set(looked_up(path.read_text())) - NOT_OF_A_PART
    assert [name for name in sorted(names) if not stands_in_the_contract(name)] == []


def test_a_name_outside_of_the_contract_is_seen():
    assert list(looked_up('getattr(part, "secret", None) or hasattr(part, "width")')) == [
        "secret",
        "width",
    ]
    assert not stands_in_the_contract("secret")
    assert stands_in_the_contract("ffn_width")
