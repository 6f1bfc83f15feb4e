"""Every kind of part is whole: a contract, a consumer, a suite, a template and a built-in."""

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
    "tokenizer": "core.interfaces:Tokenizer",
    "speech_tokenizer": "core.interfaces:SpeechTokenizer",
    "layout": "core.interfaces:Layout",
    "backbone": "core.interfaces:Backbone",
    "head": "core.interfaces:Head",
    "decoder": "core.interfaces:Decoder",
    "teacher": "core.interfaces:Teacher",
    "objective": "core.objective:Objective",
    "metric": "core.metric:Metric",
    "corpus": "core.data.readers:CorpusFormat",
    "converter": "core.convert:Converter",
    "release": "core.releases:ReleaseReader",
    "contender": "core.bench.contenders:Contender",
    "command": "core.cli:Command",
}
"""Kind -> the class or protocol that its parts keep."""
PENDING = set() if (ROOT / "core/contract/metric.py").is_file() else {"metric"}
"""Kinds whose contract is being written."""
HERE = [kind for kind in KINDS if kind not in PENDING]
NOT_CONSUMERS = {"registry.py", "built_in.py", "scaffold.py"}


def test_every_kind_is_in_the_table():
    assert set(CONTRACTS) == set(KINDS)


@pytest.mark.parametrize("kind", HERE)
def test_it_has_a_documented_contract(kind):
    module, _, name = CONTRACTS[kind].partition(":")
    contract = getattr(import_module(f"wishbone.{module}"), name)
    assert contract.__doc__


@pytest.mark.parametrize("kind", HERE)
def test_somebody_in_core_asks_the_registry_for_it(kind):
    """The kind's name stands in a file that reads the registry, or the configuration's slots."""
    files = [p for p in (ROOT / "core").rglob("*.py") if p.name not in NOT_CONSUMERS]
    readers = ("registry()", "search(", "part(", "_new(")
    consumers = [
        path.name
        for path in files
        if "testing" not in path.parts
        and f'"{kind}"' in (text := path.read_text())
        and any(call in text for call in readers)
    ]
    assert consumers


@pytest.mark.parametrize("kind", HERE)
def test_it_has_a_suite_of_its_own(kind):
    own = [check for check in suite(kind) if check not in (*COMMON, LIGHT)]
    assert len(own) >= 2


@pytest.mark.parametrize("kind", HERE)
def test_it_has_a_template(kind):
    assert kind in scaffold.kinds()


@pytest.mark.parametrize("kind", HERE)
def test_wishbone_brings_one_by_the_same_door(kind):
    assert [entry for entry in registry().of(kind) if entry.distribution == "wishbone-tts"]


@pytest.mark.parametrize("capability", [field.name for field in fields(Caps)])
def test_every_capability_is_asked_for_by_a_feature(capability):
    """Through ``require`` or ``require_caps``, outside the contract and its suites."""
    files = [*(ROOT / "core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert [
        path.name
        for path in files
        if "testing" not in path.parts
        and path.name != "interfaces.py"
        and f'"{capability}"' in (text := path.read_text())
        and "require" in text
    ]
