"""CosyVoice3's language model says what the public class says, id by id, from the same weights.

Golden codes are of ``CosyVoice3LM`` on a Qwen2 of ``transformers`` in float32, drawing the
likeliest id; ``cosyvoice3_lm_reference`` makes them again where the sources are.
"""

import json
import os
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from cosyvoice2_lm_reference import GROUPS, HEADS, INNER, LAYERS, ROWS, WIDTH
from cosyvoice2_reference import GOLDEN
from cosyvoice3_lm_reference import (
    ALTERNATING,
    CASES,
    CODES,
    ENDS,
    MARKER,
    OPENING,
    PREFIX,
    REFUSED,
    weights,
)

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.adapters.cosyvoice3 import CosyVoice3
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, CheckpointError, ConfigError, DataError
from wishbone.core.contract.layout import IGNORE, Prompt, Sample
from wishbone.core.contract.session import Draw, NeedText
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Sampler, Sampling
from wishbone.core.model.speech_lm import SpeechLM, begin_session, prefix
from wishbone.core.speak import pipeline
from wishbone.core.speak.utterance import Utterance
from wishbone.core.system.loading import load_tensors
from wishbone.core.testing import check_class
from wishbone.plugins.cosyvoice2.release import settings
from wishbone.plugins.cosyvoice2.release.reader import Release
from wishbone.plugins.heads.head import LinearHead, LinearHeadConfig
from wishbone.plugins.transformer import convert
from wishbone.plugins.transformer.backbone import Transformer, TransformerConfig

SPACE = CodeSpace(size=CODES, rate=25.0)
TEXT = TextSpace(vocabulary=ROWS, specials={"<|endofprompt|>": MARKER}, opening=tuple(OPENING))
SOS, EOS, TASK, FILL = range(CODES, CODES + 4)
WANTED = json.loads((GOLDEN / "cosyvoice3_lm.json").read_text())
SHAPE = TransformerConfig(
    width=WIDTH, layers=LAYERS, heads=HEADS, kv_heads=GROUPS, ffn_width=INNER, rope_theta=1e6
)


@pytest.fixture(scope="module", params=ENDS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm")
    torch.save(weights(ENDS[request.param]), path / "llm.pt")
    path.joinpath("way").write_text(request.param)
    return path


def system_of(folder, cls=CosyVoice3, bias=False, **layout):
    part = cls(cls.Config(**layout), text=TEXT, codes=SPACE)
    head = LinearHead(LinearHeadConfig(bias=bias), width=WIDTH, codes=SPACE, extra=part.extra)
    model = SpeechLM(Transformer(SHAPE), head, part).eval()
    load_tensors(model, Release().language_model(folder, model).tensors, str(folder))
    return SimpleNamespace(layout=part, model=model)


def codes_of(system, case, pieces):
    prompt = Prompt(
        text=tuple(case.get("prompt_text", ())),
        # the opening and its marker stand before every text without being asked for
        instruct=() if case["instruct"] == PREFIX else tuple(case["instruct"]),
        speech=[(code,) for code in case.get("speech", ())],
    )
    sampler = Sampler(Sampling(greedy=True), SPACE)
    begin = prefix(system.model, system.layout, prompt)
    drawn = []
    try:
        for (code,) in pipeline.frames(system, pieces, prompt, sampler, begin, Utterance()):
            drawn.append(code)
    except DataError:
        drawn.append(REFUSED)
    return drawn


def test_every_request_is_that_of_the_public_class(folder):
    way = folder.joinpath("way").read_text()
    form = "unistream" if way == "at once" else "bistream"
    system = system_of(folder, parity="upstream", form=form)
    for name, case in (CASES if way == "at once" else ALTERNATING).items():
        pieces = [case["text"]] if way == "at once" else [[row] for row in case["text"]]
        assert codes_of(system, case, pieces) == WANTED[way][name], name


def test_the_right_way_ends_where_the_end_may_be(folder):
    """The public class bans SOS in place of the end, so it says nothing, or an id too few."""
    way = folder.joinpath("way").read_text()
    if way != "at once":
        case = ALTERNATING["zero-shot"]
        assert WANTED[way]["zero-shot"][-1] == REFUSED
        right = codes_of(system_of(folder, form="bistream"), case, [[r] for r in case["text"]])
        assert REFUSED not in right and len(right) >= 2 * len(case["text"])
        return
    system = system_of(folder)
    for name, case in CASES.items():
        fewest, public = 2 * len(case["text"]), WANTED[way][name]
        right = codes_of(system, case, [case["text"]])
        assert len(right) >= fewest
        assert right[: len(public)] == public
        assert right == public or len(public) < fewest, name
    assert any(len(WANTED[way][name]) < 2 * len(case["text"]) for name, case in CASES.items())


def test_one_wrong_weight_is_heard(folder):
    """Negative control: a few queries off by half."""
    if folder.joinpath("way").read_text() != "at once":
        pytest.skip("the weights of the other form")
    system = system_of(folder, parity="upstream")
    with torch.no_grad():
        system.model.backbone.blocks[0].attention.qkv.weight[:4] *= 1.5
    assert codes_of(system, CASES["long"], [CASES["long"]["text"]]) != WANTED["at once"]["long"]


def test_the_layouts_of_both_releases_are_not_mixed_up(folder):
    with pytest.raises(CheckpointError, match="missing|marks"):
        system_of(folder, cls=CosyVoice2, bias=True)


def layout(text=TEXT, **fields):
    return CosyVoice3(CosyVoice3.Config(**fields), text=text, codes=SPACE)


def lay(text, speech, instruct=(), **fields):
    sample = Sample(text=text, speech=[(s,) for s in speech], instruct=instruct)
    laid = layout(**fields).train(sample, Random(0))
    return list(zip(laid.table.tolist(), laid.ids[:, 0].tolist(), strict=True)), (
        laid.targets[:, 0].tolist()
    )


def test_training_lays_out_what_the_public_code_does():
    """As ``prepare_lm_input_target`` with an instruction: marks from the speech table."""
    fed, targets = lay([3, 4, 5], [0, 1], [20], bistream_probability=0.0)
    before = [*OPENING, 20, MARKER, 3, 4, 5]
    assert fed == [(0, SOS), *((1, t) for t in before), (0, TASK), (0, 0), (0, 1)]
    assert targets == [IGNORE] * 8 + [0, 1, EOS]
    fed, targets = lay(range(3, 10), range(32), bistream_probability=1.0)
    speech = [(0, s) for s in range(32)]
    prefix_rows = [(1, t) for t in PREFIX]
    assert fed == (
        [(0, SOS), *prefix_rows, *((1, t) for t in range(3, 8)), *speech[:15], (1, 8), (1, 9)]
        + [(0, TASK), *speech[15:]]
    )
    ignored = 1 + len(PREFIX) + 4
    assert targets == ([IGNORE] * ignored + [*range(15), FILL, IGNORE, IGNORE, *range(15, 32), EOS])


def test_the_prefix_is_written_once():
    rules = layout().rules
    assert rules.close_instruct(()) == PREFIX
    assert rules.close_instruct((20,)) == [*OPENING, 20, MARKER]
    assert rules.close_instruct((*OPENING, 20)) == [*OPENING, 20, MARKER]
    assert rules.close_instruct((21, MARKER)) == [21, MARKER]
    bare = layout(text=TextSpace(vocabulary=ROWS)).rules
    assert bare.close_instruct(()) == []
    with pytest.raises(CapabilityError, match="endofprompt"):
        bare.close_instruct((20,))


def test_ids_that_mean_nothing_cannot_be_drawn():
    part = layout()
    assert part.extra == 200 and part.tables == {"speech": 6761, "text": ROWS}
    session, _, action = begin_session(part, Prompt())
    text = iter([[3]])
    while not isinstance(action, Draw):
        action = session.next(next(text, None) if isinstance(action, NeedText) else None)
    legal = set(range(part.tables["speech"])) - set(action.banned)
    assert legal == set(range(CODES))
    for code in (4, 5):
        answer = (code,)
        while not isinstance(action := session.next(answer), Draw):
            answer = None
    assert set(range(part.tables["speech"])) - set(action.banned) == {*range(CODES), EOS}


@pytest.mark.parametrize("fields", [{}, {"form": "bistream"}, {"extra_ids": 4}])
def test_it_keeps_the_contract(fields):
    results = check_class("layout", CosyVoice3, CosyVoice3.Config(**fields))
    assert [f"{r.name}: {r.detail}" for r in results if not r.passed] == []


def test_fields_that_it_has_not():
    with pytest.raises(ConfigError, match="always has FILL"):
        layout(fill=False)


def test_a_release_goes_in_and_out(folder, tmp_path):
    body = {
        "model_type": "qwen2", "hidden_size": WIDTH, "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS, "num_hidden_layers": LAYERS, "intermediate_size": INNER,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    }  # fmt: skip
    (folder / "CosyVoice-BlankEN").mkdir(exist_ok=True)
    (folder / "CosyVoice-BlankEN" / "config.json").write_text(json.dumps(body))
    read = convert.CosyVoice2().read(folder)
    assert read.config["layout"] == {"name": "cosyvoice3"} and not read.config["head"]["bias"]
    convert.CosyVoice2().write(read.tensors, read.config, tmp_path / "llm.pt")
    back = torch.load(tmp_path / "llm.pt", weights_only=True)
    theirs = torch.load(folder / "llm.pt", weights_only=True)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


SOURCES = os.environ.get("WISHBONE_COSYVOICE")


@pytest.mark.skipif(
    not SOURCES,
    reason="set WISHBONE_COSYVOICE to a checkout of FunAudioLLM/CosyVoice, with transformers here",
)
def test_the_golden_codes_are_those_of_the_sources():
    from cosyvoice3_lm_reference import run

    assert run() == WANTED


@pytest.mark.skipif(not SOURCES, reason="set WISHBONE_COSYVOICE, as above")
def test_the_public_yaml_is_read(tmp_path):
    public = Path(SOURCES) / "examples/libritts/cosyvoice3/conf/cosyvoice3.yaml"
    (tmp_path / "cosyvoice3.yaml").write_text(public.read_text())
    values = settings.read(tmp_path)
    assert values["llm"]["class"] == "cosyvoice.llm.llm.CosyVoice3LM"
    assert values["llm"]["llm_input_size"] == 896
