"""The language model says what the public reference says, id by id, from the same weights.

Golden codes are of the reference's own class on a Qwen2 of ``transformers`` in float32, drawing the
likeliest id; ``cosyvoice2_lm_reference`` makes them again where the sources are.
"""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from cosyvoice2_lm_reference import (
    ALTERNATING,
    CASES,
    GROUPS,
    HEADS,
    INNER,
    LAYERS,
    ROWS,
    WIDTH,
    shapes,
    weights,
)
from cosyvoice2_reference import GOLDEN

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.layout import Prompt
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Sampler, Sampling
from wishbone.core.model.speech_lm import SpeechLM, prefix
from wishbone.core.speak import pipeline
from wishbone.core.speak.utterance import Utterance
from wishbone.core.system.loading import load_tensors
from wishbone.plugins.cosyvoice2.release.reader import Release
from wishbone.plugins.heads.head import LinearHead, LinearHeadConfig
from wishbone.plugins.transformer.backbone import Transformer, TransformerConfig

CODES = CodeSpace(size=6561, rate=25.0)
TEXT = TextSpace(vocabulary=ROWS, specials={"<|endofprompt|>": ROWS - 1})
WANTED = json.loads((GOLDEN / "cosyvoice2_lm.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm")
    torch.save(weights(), path / "llm.pt")
    return path


def system_of(folder, **layout):
    part = CosyVoice2(CosyVoice2.Config(**layout), text=TEXT, codes=CODES)
    shape = TransformerConfig(
        width=WIDTH, layers=LAYERS, heads=HEADS, kv_heads=GROUPS, ffn_width=INNER, rope_theta=1e6
    )
    head = LinearHead(LinearHeadConfig(bias=True), width=WIDTH, codes=CODES, extra=3)
    model = SpeechLM(Transformer(shape), head, part).eval()
    load_tensors(model, Release().language_model(folder, model).tensors)
    return SimpleNamespace(layout=part, model=model)


def codes_of(system, case, pieces, instruct=False):
    before = tuple(case.get("prompt_text", ()))
    prompt = Prompt(
        text=() if instruct else before,
        instruct=before if instruct else (),
        speech=[(code,) for code in case.get("speech", ())],
    )
    sampler = Sampler(Sampling(greedy=True), CODES)
    begin = prefix(system.model, system.layout, prompt)
    drawn = pipeline.frames(system, pieces, prompt, sampler, begin, Utterance())
    return [code for (code,) in drawn]


def test_a_tiny_model_has_the_names_of_the_release():
    from cosyvoice2_release import names

    public = {name for name in names("llm") if ".layers." not in name or name.split(".")[4] in "01"}
    assert set(shapes()) == public


@pytest.mark.parametrize("parity", ["right", "upstream"])
@pytest.mark.parametrize("name", CASES)
def test_all_text_at_once(folder, name, parity):
    system = system_of(folder, parity=parity)
    case = CASES[name]
    sampled = codes_of(system, case, [case["text"]], instruct=name == "instruct")
    assert sampled == WANTED["at once"][name]


@pytest.mark.parametrize("name", ALTERNATING)
def test_text_id_by_id(folder, name):
    system = system_of(folder, form="bistream", parity="upstream")
    case = ALTERNATING[name]
    assert codes_of(system, case, [[row] for row in case["text"]]) == WANTED["alternating"][name]


def test_the_right_way_is_another_where_upstream_feeds_a_code_twice(folder):
    """Negative control: parity is a choice that is heard."""
    system = system_of(folder, form="bistream")
    sampled = [
        codes_of(system, case, [[row] for row in case["text"]]) == WANTED["alternating"][name]
        for name, case in ALTERNATING.items()
    ]
    assert not all(sampled)


def test_one_wrong_weight_is_heard(folder):
    """Negative control: a few queries off by half."""
    system = system_of(folder)
    with torch.no_grad():
        system.model.backbone.blocks[0].attention.qkv.weight[:4] *= 1.5
    case = CASES["long"]
    assert codes_of(system, case, [case["text"]]) != WANTED["at once"]["long"]


@pytest.mark.skipif(
    not os.environ.get("WISHBONE_COSYVOICE"),
    reason="set WISHBONE_COSYVOICE to a checkout of FunAudioLLM/CosyVoice, with transformers here",
)
def test_the_golden_codes_are_those_of_the_sources():
    from cosyvoice2_lm_reference import run

    assert run() == WANTED
