"""Guided generation: two streams, one drawn id, and what training leaves out for it."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_system import tiny_system

from wishbone.core.contract.errors import CapabilityError, ConfigError
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import Prompt, Sample
from wishbone.core.contract.session import Draw, NeedText
from wishbone.core.contract.text import TextSpace
from wishbone.core.model.sampling import Sampler, Sampling
from wishbone.core.model.speech_lm import BatchRows, prefix
from wishbone.core.speak import guidance, pipeline, text_to_speech
from wishbone.core.speak.guidance import Guide, blanked, guided, prompt_without, sample_without
from wishbone.core.speak.server import Request, Server
from wishbone.core.speak.voice import Voice
from wishbone.core.testing import trained_looking_
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.transformer.backbone import Transformer

TEXT = "We speak of one thing. Then of another thing altogether! And stop."
VOICE = Voice(text=(1, 2, 27) * 4, speech=((3,), (9,)) * 16)
FORMS = [
    {"form": "unistream", "min_code_ratio": 1, "max_code_ratio": 2},
    {"form": "bistream", "pace": "words"},
]
PROMPT = ["prompt_text", "prompt_audio"]


def system_that_drops(drops, cls=None, **fields):
    system = tiny_system(sampling=Sampling(guidance_drops=list(drops)), **fields)
    if cls:
        config = cls.small_config()
        config.width = system.model.backbone.width
        if cls is Transformer:
            config.heads, config.kv_heads = 4, 2
        torch.manual_seed(1)
        system.model.backbone = trained_looking_(cls(config), 0).eval()
    return system.model.requires_grad_(False) and system


def spoken(system, text=TEXT, voice=None, seed=3, scale=None):
    record = []
    audio = text_to_speech.say(system, text, voice, seed, record, guidance=scale)
    return [utterance.codes for utterance in record], audio.samples


def test_the_formula_by_hand():
    c, u = torch.tensor([[1.0, 2.0, -4.0]]), torch.tensor([[0.5, 3.0, 0.0]])
    assert guided(c, u, 2.0).tolist() == [[1.5, 1.0, -8.0]]
    assert guided(c, u, 0.5).tolist() == [[0.75, 2.5, -2.0]]
    assert torch.equal(guided(c, u, 0.0), u) and torch.equal(guided(c, u, 1.0), c)


@pytest.mark.parametrize("fields", FORMS)
def test_scale_1_is_plain_decoding_and_makes_no_second_stream(fields, monkeypatch):
    system = system_that_drops(["text"], **fields)
    plain = spoken(system, voice=VOICE)
    made = []
    init = Sampler.__init__
    monkeypatch.setattr(
        Sampler, "__init__", lambda self, *a, **k: (made.append(self), init(self, *a, **k))[1]
    )
    monkeypatch.setattr(guidance, "GuidedRows", lambda *a: pytest.fail("a second row"))
    before, calls = torch.get_rng_state(), len(system.model.backbone.calls)
    codes, samples = spoken(system, voice=VOICE, scale=1.0)
    again = len(system.model.backbone.calls) - calls
    assert codes == plain[0] and torch.equal(samples, plain[1])
    assert again == calls and torch.equal(torch.get_rng_state(), before)
    spoken(system, voice=VOICE)
    states = [sampler._generator.get_state() for sampler in made]
    assert len(states) == 2 and torch.equal(*states)
    # the control: a second stream would have been seen
    with pytest.raises(pytest.fail.Exception):
        spoken(system, voice=VOICE, scale=1.5)


@pytest.mark.parametrize("cls", [None, RWKV7, Transformer])
@pytest.mark.parametrize("fields", FORMS)
def test_scale_0_is_the_stream_without_the_condition(fields, cls):
    system = system_that_drops(PROMPT, cls, **fields)
    with_voice, without = spoken(system, voice=VOICE), spoken(system)
    nothing = spoken(system, voice=VOICE, scale=0.0)
    assert nothing[0] == without[0] != with_voice[0]
    assert torch.equal(nothing[1], without[1])


def test_scale_0_without_the_text_is_what_blank_text_says():
    system = system_that_drops(["text"])
    ids = system.tokenizer.encode(TEXT)
    begin = prefix(system.model, system.layout, Prompt())

    def say(shown, guide=None):
        sampler = Sampler(system.sampling, system.decoder.codes, 3)
        utterance = pipeline.Utterance()
        return list(pipeline.frames(system, [shown], Prompt(), sampler, begin, utterance, guide))

    blank = blanked(ids, system.tokenizer.space)
    assert set(blank) == {0, 27, 28} and [i > 26 for i in ids] == [i > 26 for i in blank]
    unread = say(blank)
    assert say(ids, Guide(system, 0.0, ["text"])) == unread
    assert say(ids) != unread


def test_the_wrong_formula_would_be_seen(monkeypatch):
    system = system_that_drops(PROMPT)
    without = spoken(system)[0]
    assert spoken(system, voice=VOICE, scale=0.0)[0] == without
    monkeypatch.setattr(guidance, "guided", lambda c, u, s: c + s * (c - u))
    assert spoken(system, voice=VOICE, scale=0.0)[0] != without


def test_the_logits_of_the_first_draw_are_those_of_two_models(monkeypatch):
    system = system_that_drops(PROMPT, form="unistream")
    seen = []

    def watch(conditioned, unconditioned, scale):
        seen.append(guided(conditioned, unconditioned, scale))
        return seen[-1]

    monkeypatch.setattr(guidance, "guided", watch)
    spoken(system, "We go.", VOICE, scale=2.5)
    rows = []
    for prompt in (VOICE.prompt(system), Prompt()):
        session = system.layout.start(prompt)
        text, positions, answer = iter([system.tokenizer.encode("We go.")]), [], None
        while not isinstance(action := session.next(answer), Draw):
            answer = next(text, None) if isinstance(action, NeedText) else None
            positions += getattr(action, "positions", [])
        state = system.model.backbone.init_state(1)
        rows.append(system.model.head(system.model.advance(positions, state)[0]))
    expected = rows[1] + 2.5 * (rows[0] - rows[1])
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(seen[0], rows[0], atol=1e-2)


@pytest.mark.parametrize("drops", [["text"], PROMPT, ["prompt_audio"], ["prompt_text"]])
@pytest.mark.parametrize("fields", FORMS)
def test_both_streams_are_fed_what_was_drawn(fields, drops, monkeypatch):
    system, fed = system_that_drops(drops, **fields), [[], []]
    plain = BatchRows.advance

    def watch(self, rows):
        for said, row in zip(fed, rows, strict=True):
            said += [ids for table, ids in row if table == 0]
        return plain(self, rows)

    monkeypatch.setattr(BatchRows, "advance", watch)
    codes, _ = spoken(system, "We speak of one thing.", VOICE, scale=2.0)
    drawn = codes[0]
    # the last code may end the utterance by its length, and is fed no more
    said = drawn if fed[0][-len(drawn) :] == drawn else drawn[:-1]
    assert len(said) > 3 and fed[0][-len(said) :] == fed[1][-len(said) :] == said


@pytest.mark.parametrize("fields", FORMS)
def test_the_seed_and_arriving_text_change_nothing_and_the_scale_does(fields):
    system = system_that_drops(["text"], **fields)
    codes, samples = spoken(system, scale=2.0)
    assert spoken(system, scale=2.0)[0] == codes != spoken(system, scale=1.0)[0]
    assert spoken(system, seed=4, scale=2.0)[0] != codes
    chunks = list(text_to_speech.stream(system, iter(TEXT), seed=3, guidance=2.0))
    assert torch.equal(torch.cat(chunks), samples)
    system.sampling.guidance = 2.0
    assert spoken(system)[0] == codes


def test_a_kept_state_is_where_the_first_stream_begins():
    system = system_that_drops(PROMPT)
    kept = VOICE.with_state(system)
    before = {name: part.clone() for name, part in kept.state.items()}
    assert spoken(system, voice=kept, scale=2.0)[0] == spoken(system, voice=VOICE, scale=2.0)[0]
    assert all(torch.equal(kept.state[name], part) for name, part in before.items())


def test_without_a_prompt_there_is_nothing_to_do_without(monkeypatch):
    system = system_that_drops(PROMPT)
    plain = spoken(system)
    monkeypatch.setattr(guidance, "GuidedRows", lambda *a: pytest.fail("a second row"))
    codes, samples = spoken(system, scale=3.0)
    assert codes == plain[0] and torch.equal(samples, plain[1])


@pytest.mark.parametrize("cls", [None, RWKV7, Transformer])
def test_guided_and_plain_requests_share_a_server(cls):
    system = system_that_drops([*PROMPT, "text"], cls)
    lines = [TEXT, "Go.", "Nobody waits for long.", "So it is. So it was."]
    scales = [2.0, 1.0, None, 3.0]
    wanted = [
        spoken(system, line, VOICE, n, scale)[0]
        for n, (line, scale) in enumerate(zip(lines, scales, strict=True))
    ]
    for slots in (2, 5):
        server = Server(system, slots)
        asked = [
            Request(line, VOICE, n, scale)
            for n, (line, scale) in enumerate(zip(lines, scales, strict=True))
        ]
        said = sorted(server.say(asked), key=lambda each: each.number)
        assert [[u.codes for u in each.utterances] for each in said] == wanted
        assert server.pool.free == slots
    assert server.steps < 2 * sum(len(codes) for each in wanted for codes in each)


def test_a_server_of_one_slot_refuses_a_guided_request():
    system = system_that_drops(["text"])
    with pytest.raises(CapabilityError, match="needs two slots"):
        list(Server(system, 1).stream(TEXT, guidance=2.0))
    # a scale of nothing has a second row all the same
    with pytest.raises(CapabilityError, match="needs two slots"):
        list(Server(system, 1).stream(TEXT, guidance=0.0))
    assert len(list(Server(system, 1).stream(TEXT))) > 3


@pytest.mark.parametrize("cls", [RWKV7, Transformer])
def test_rows_of_a_pair_share_nothing(cls):
    system = system_that_drops(["text"], cls)
    model = system.model
    long = [(1, (row,)) for row in (3, 4, 5, 6, 27)]
    rows = [(long, long[:2]), ([], long), ([(0, (7,))], [(0, (7,))]), (long, []), (long, long)]
    alone = [model.backbone.init_state(1), model.backbone.init_state(1)]
    hidden = [None, None]
    alone[0] = model.advance(long, alone[0])[1]
    pair = model.rows(alone)
    for step in rows:
        pair.advance(step)
        for index, row in enumerate(step):
            if row:
                hidden[index], alone[index] = model.advance(row, alone[index])
        if all(each is not None for each in hidden):
            wanted = torch.stack([model.head(each) for each in hidden])
            torch.testing.assert_close(pair.logits(), wanted, rtol=1e-4, atol=1e-4)


def test_a_guide_leaves_out_what_was_left_out_in_training(tmp_path):
    notes = {"learned": {"instruct": False, "dropped": ["text", "prompt_audio"]}}
    (tmp_path / "provenance.json").write_text(json.dumps({"notes": notes}))
    system = replace(tiny_system(), config={"weights": str(tmp_path)})
    assert set(Guide.of(system, Sampling(guidance=2.0)).drops) == {"text", "prompt_audio"}
    asked = Sampling(guidance=2.0, guidance_drops=["prompt_text"])
    assert Guide.of(system, asked).drops == ("prompt_text",)
    # a scale of 1 asks for no guide, whatever was trained
    assert spoken(system_that_drops([]), scale=1.0)[0]
    with pytest.raises(CapabilityError, match="never trained with a condition left out"):
        Guide.of(replace(system, config={}), Sampling(guidance=2.0))


def test_what_cannot_be_guided_is_refused():
    fields = {"form": "bistream", "pace": "ratio"}
    with pytest.raises(CapabilityError, match="at another place|ends first"):
        spoken(system_that_drops(PROMPT, **fields), voice=VOICE, scale=2.0)
    assert spoken(system_that_drops(["text"], **fields), voice=VOICE, scale=2.0)[0]
    with pytest.raises(ConfigError, match="'speaker' cannot be left out") as caught:
        spoken(system_that_drops(["speaker"]), scale=2.0)
    assert "prompt_audio" in caught.value.do
    with pytest.raises(CapabilityError, match="never trained with a condition left out"):
        spoken(system_that_drops([]), scale=2.0)
    with pytest.raises(ConfigError, match="guidance: -1"):
        spoken(system_that_drops(["text"]), scale=-1.0)
    with pytest.raises(CapabilityError, match="no id that could stand"):
        blanked([1], TextSpace(vocabulary=3))


def test_a_head_that_needs_its_own_codes_cannot_be_guided():
    system = system_that_drops(["text"])

    class Deep(type(system.model.head)):
        def sample(self, hidden, pick):
            return Head.sample(self, hidden, pick)

    system.model.head.__class__ = Deep
    with pytest.raises(CapabilityError, match="one after another"):
        spoken(system, scale=2.0)
    with pytest.raises(CapabilityError, match="one after another"):
        list(Server(system, 2).stream(TEXT, guidance=2.0))
    assert spoken(system)[0]


def test_every_condition_leaves_alone():
    prompt = Prompt((1, 27), ((5,),), (1,), (2,), (8,))
    sample = Sample((3, 27), ((6,),), (1,), (9,), (2,), prompt)
    space = TextSpace(vocabulary=29, word_ends=frozenset({27}), blank=0)
    assert sample_without(sample, (), space) == sample
    assert sample_without(sample, ["text"], space).text == [0, 27]
    gone = sample_without(sample, ["speaker", "instruct"], space)
    assert gone.anonymous and gone.prompt.anonymous and not gone.global_codes + gone.instruct
    assert gone.text == sample.text and gone.prompt.speech == prompt.speech
    only = prompt_without(prompt, ["prompt_audio"])
    assert only == Prompt(prompt.text, (), (), prompt.instruct, prompt.global_codes)
    only = prompt_without(prompt, ["prompt_text"])
    assert only == Prompt((), prompt.speech, (), prompt.instruct, prompt.global_codes)
