"""A configuration is parsed once, and everything is built from what came of it."""

import pytest
import wrapped_toys
from omegaconf import OmegaConf

from wishbone.core.config.compose import compose, dump
from wishbone.core.config.schema import Section
from wishbone.core.model.wrapper import count_base
from wishbone.core.speak import speaker
from wishbone.core.system import text_system
from wishbone.core.system.build import build_layout, build_model
from wishbone.core.system.spec import SPEECH, TEXT, parse, resolve

SYSTEM = """\
tokenizer: {name: characters}
speech_tokenizer: {name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}
layout: {name: cosyvoice2}
backbone: {name: rwkv7, width: 32, layers: 2, head_size: 16}
head: {name: linear}
decoder: {name: fsqcodec, width: 16, fine_width: 16, blocks: 1, fine_blocks: 1}
sampling: {top_k: 5}
"""
BASE = {"name": "rwkv7", "width": 32, "layers": 2, "head_size": 16}
TILTED = {"name": wrapped_toys.KEY, "base": BASE}
TEXT_SYSTEM = {
    "task": "text",
    "tokenizer": {"name": "characters"},
    "backbone": {"name": "rwkv7", "width": 32, "layers": 1, "head_size": 16},
    "head": {"name": "linear"},
}


@pytest.fixture
def schemas(monkeypatch):
    """Names of the schemas that were parsed, one for each call of OmegaConf."""
    calls, plain = [], OmegaConf.structured

    def count(schema, *rest):
        calls.append(schema.__qualname__)
        return plain(schema, *rest)

    monkeypatch.setattr(OmegaConf, "structured", count)
    return calls


@pytest.fixture
def path(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SYSTEM)
    return tmp_path / "tiny.yaml"


@pytest.fixture
def toys():
    wrapped_toys.register()
    yield
    wrapped_toys.forget()


def test_a_load_parses_every_slot_and_the_sampling_once(path, schemas):
    system = speaker.load(path)
    assert len(schemas) == 7
    spec = parse(system.config)
    assert schemas[7:] == schemas[:7]
    assert schemas[7:] == [*(s.cls.Config.__qualname__ for s in spec.slots.values()), "Sampling"]


def test_the_base_of_a_wrapper_is_parsed_once_too(path, schemas, toys):
    values = {**compose(path), "backbone": {**TILTED, "base": TILTED}}
    spec = parse(values)
    assert len(schemas) == 9
    system = speaker.build(spec)
    backbone = system.model.backbone
    assert count_base(backbone.config.base) > 0
    assert build_layout(spec)[1].tables and build_model(spec, "meta").backbone.width == 32
    assert len(schemas) == 9


def test_a_base_is_a_slot_inside_a_slot(path, toys):
    spec = parse({**compose(path), "backbone": TILTED}).slots["backbone"]
    assert spec.name == wrapped_toys.KEY and spec.base.name == "rwkv7"
    assert spec.base.config.layers == 2 and spec.base.key == "backbone.base"
    assert isinstance(spec.config.base, Section) and spec.config.base.slot is spec.base
    assert type(spec.values["base"]) is dict


def test_what_is_parsed_is_not_parsed_again(path, schemas):
    spec = parse(compose(path))
    assert parse(spec) is spec and len(schemas) == 7
    assert spec.task is SPEECH and list(spec.slots) == list(SPEECH.slots)
    assert resolve(spec.config) == spec.config and dump(resolve(spec.config)) == dump(spec.config)


def test_a_text_system_has_its_own_slots_and_is_parsed_once(schemas):
    spec = parse(TEXT_SYSTEM)
    assert spec.task is TEXT and list(spec.slots) == ["tokenizer", "backbone", "head"]
    system = text_system.build(spec)
    assert text_system.build(spec, backbone=system.model.backbone).model.head is not None
    assert len(schemas) == 4
