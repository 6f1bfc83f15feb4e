"""Leaving conditions out in training: what is left, how often, and the same after a kill."""

import json
from dataclasses import replace
from random import Random

import pytest
import torch
from tiny_corpus import ABOUT, rows, write_recipe

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.adapters.spark import Spark
from wishbone.adapters.xy import XY
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, ConfigError, DataError
from wishbone.core.contract.layout import IGNORE, Prompt, Sample
from wishbone.core.contract.session import Draw, Emit, Feed, NeedText, Stop
from wishbone.core.contract.text import TextSpace
from wishbone.core.speak.guidance import CONDITIONS, Guide, prompt_without, sample_without
from wishbone.core.speak.speaker import build
from wishbone.core.system.spec import read
from wishbone.core.train.condition_dropout import Drop, dropping
from wishbone.core.weights.training_record import learned
from wishbone.plugins.phonemes.tokenizer import PhonemeTokenizer

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from test_train_run import Killed, kill_before, losses  # noqa: E402

from wishbone.core.cli.train import main  # noqa: E402
from wishbone.core.data.join import join_file  # noqa: E402
from wishbone.core.data.tokens import read_tokens, write_tokens  # noqa: E402

SPACE = TextSpace(40, frozenset({38, 39}), {"<|endofprompt|>": 37}, blank=0)
CODES = CodeSpace(size=27, rate=25.0)
PHONEMES, MANY = PhonemeTokenizer().space, CodeSpace(size=4375, rate=25.0)
PROMPT = Prompt(text=[1, 2, 38, 3, 38], speech=[(i,) for i in range(8)], word_ends=[5, 8])
SAMPLE = Sample(
    text=[4, 38, 5, 6, 38, 7, 39], speech=[(10 + i,) for i in range(12)], word_ends=[3, 7, 12],
    prompt=PROMPT,
)  # fmt: skip
FORMS = [
    {"form": "unistream", "bistream_probability": 0.0},
    {"form": "bistream", "pace": "words", "bistream_probability": 1.0},
    {"form": "bistream", "pace": "words", "bistream_probability": 1.0, "lookahead_words": 0},
    {"form": "bistream", "mix": [2, 3], "bistream_min_ratio": 1.5, "bistream_probability": 1.0},
]


def replayed(layout, sample):
    """What a request feeds, and draws, whose draws are what training wants to hear."""
    laid = layout.train(sample, Random(0))
    wanted = iter([int(t) for t in laid.targets.flatten() if t != IGNORE])
    session = layout.start(replace(sample.prompt, instruct=sample.instruct))
    text, answer = iter([sample.text]), None
    fed, drawn = [], 0
    while not isinstance(action := session.next(answer), Stop):
        answer = None
        match action:
            case Feed(positions):
                fed += positions
            case Draw():
                answer = (next(wanted),)
                drawn += 1
            case NeedText():
                answer = next(text, None)
            case Emit():
                pass
    inputs = [(int(t), tuple(i)) for t, i in zip(laid.table, laid.ids.tolist(), strict=True)]
    return inputs, fed, laid, drawn


@pytest.mark.parametrize("dropped", [(), ("prompt_text", "prompt_audio"), ("prompt_audio",)])
@pytest.mark.parametrize("fields", FORMS)
def test_a_prompt_stands_in_training_as_in_a_request(fields, dropped):
    layout = CosyVoice2(CosyVoice2.Config(**fields), text=SPACE, codes=CODES)
    if dropped == ("prompt_audio",) and layout.config.pace == "ratio" and layout.alternates:
        pytest.skip("blocks of a fixed ratio need the prompt's codes beside its text")
    sample = sample_without(SAMPLE, dropped, SPACE)
    inputs, fed, laid, drawn = replayed(layout, sample)
    assert fed == inputs
    told = [int(t) for t in laid.targets.flatten() if t != IGNORE]
    assert [code for code in told if code < 27] == [frame[0] for frame in SAMPLE.speech]
    assert drawn == len(told)


def test_the_prompt_would_be_predicted_without_its_mark():
    layout = CosyVoice2(CosyVoice2.Config(**FORMS[1]), text=SPACE, codes=CODES)
    joined = Sample([*PROMPT.text, *SAMPLE.text], [*PROMPT.speech, *SAMPLE.speech])
    told = layout.train(joined, Random(0)).targets.flatten().tolist()
    assert 0 in told and 7 in told
    told = layout.train(SAMPLE, Random(0)).targets.flatten().tolist()
    assert 7 not in told and 10 in told


@pytest.mark.parametrize("fields", FORMS[:3])
def test_codes_of_which_nobody_knows_the_words_come_where_a_request_has_them(fields):
    layout = CosyVoice2(CosyVoice2.Config(**fields), text=SPACE, codes=CODES)
    inputs, fed, _, _ = replayed(layout, sample_without(SAMPLE, ["prompt_text"], SPACE))
    assert fed == inputs and sum(table == 0 for table, _ in fed[:-12]) >= 8


def test_spark_and_xy_lay_a_prompt_out_and_leave_the_speaker_away():
    codes = Spark.small_codes()
    spark = Spark(Spark.Config(voice_probability=0.0), text=SPACE, codes=codes)
    sample = Sample([4, 5], [(9,), (8,)], global_codes=(1, 2, 3, 4), prompt=Prompt([1], [(7,)]))
    inputs, fed, laid, _ = replayed(spark, replace(sample, prompt=replace(
        sample.prompt, global_codes=sample.global_codes)))  # fmt: skip
    assert fed == inputs
    assert [int(t) for t in laid.targets.flatten() if t != IGNORE] == [9, 8, spark.end]
    inputs, fed, *_ = replayed(spark, sample_without(sample, ["speaker"], SPACE))
    assert fed == inputs and all(table != 2 for table, _ in fed)
    with pytest.raises(DataError, match="0 global codes"):
        spark.train(replace(sample, global_codes=()), Random(0))
    xy = XY(XY.Config(), text=SPACE, codes=XY.small_codes())
    frames = [(n, n + 1, n + 2) for n in range(6)]
    whole = xy.train(Sample([1, 4, 5], frames), Random(0))
    told = xy.train(Sample([4, 5], frames[2:], prompt=Prompt([1], frames[:2])), Random(0))
    assert torch.equal(whole.ids, told.ids) and torch.equal(whole.table, told.table)
    for book in range(3):
        begin = 4 + book
        assert (told.targets[: begin + 2, book] == IGNORE).all()
        assert torch.equal(told.targets[begin + 2 :, book], whole.targets[begin + 2 :, book])
    nobody = xy.train(Sample([1, 4, 5], frames, anonymous=True), Random(0))
    assert torch.equal(nobody.ids, whole.ids[1:])


def test_every_probability_decides_for_itself():
    base = Drop(text=0.3, prompt_text=0.5, speaker=0.2)
    drawn = [base.draw(Random(n)) for n in range(4000)]
    for name in CONDITIONS:
        share = sum(name in each for each in drawn) / len(drawn)
        assert share == pytest.approx(getattr(base, name), abs=0.03)
    both = sum({"text", "prompt_text"} <= set(each) for each in drawn) / len(drawn)
    assert both == pytest.approx(0.15, abs=0.03)
    other = [replace(base, text=0.9).draw(Random(n)) for n in range(4000)]
    assert [set(d) - {"text"} for d in drawn] == [set(o) - {"text"} for o in other]
    assert Drop(prompt=1.0).draw(Random(0)) == ("prompt_text", "prompt_audio")
    assert Drop(prompt=0.5, text=0.1).conditions() == ("text", "prompt_text", "prompt_audio")


def corpus(folder, count=40, prompt=True):
    write_tokens(folder / "single" / "a.parquet", rows(count), ABOUT)
    join_file(str(folder / "single" / "a.parquet"), str(folder / "tokens"), count // 2, 1, prompt)
    return read_tokens(folder / "tokens")


def test_the_layouts_own_choices_stay_what_they_were(tmp_path):
    tokens = corpus(tmp_path)
    layout = CosyVoice2(CosyVoice2.Config(pace="words"), text=PHONEMES, codes=MANY)
    assert dropping(Drop(), layout, PHONEMES, tokens) is layout
    never = dropping(Drop(text=1e-9), layout, PHONEMES, tokens)
    for row in range(10):
        one, other = (
            part.train(tokens.sample(row), Random(f"1-0-{row}")) for part in (layout, never)
        )
        assert torch.equal(one.ids, other.ids) and torch.equal(one.targets, other.targets)
    always = dropping(Drop(text=1.0), layout, PHONEMES, tokens)
    blank = always.train(tokens.sample(0), Random("1-0-0"))
    given = len(tokens.sample(0).prompt.text)
    assert blank.ids[blank.table == 1][:given].flatten().tolist() == tokens.sample(0).prompt.text
    text = blank.ids[blank.table == 1][given:]
    assert set(text.flatten().tolist()) <= {0, *PHONEMES.word_ends}


def test_a_joined_pair_is_an_utterance_behind_a_prompt(tmp_path):
    tokens = corpus(tmp_path)
    single = read_tokens(tmp_path / "single")
    left, right = (single.ids.index(name) for name in tokens.ids[0].split("+"))
    sample, first, second = tokens.sample(0), single.sample(left), single.sample(right)
    assert sample.prompt == Prompt(first.text, first.speech, first.word_ends)
    assert replace(sample, prompt=None) == second
    assert corpus(tmp_path / "plain", prompt=False).sample(0).prompt is None
    assert tokens.take([0]).sample(0) == sample


DROPS = ["drop.text=0.3", "drop.prompt=0.3", "drop.prompt_text=0.3"]


def recipe(tmp_path):
    path = write_recipe(tmp_path)
    for file in (tmp_path / "tokens").glob("*.parquet"):
        file.unlink()
    corpus(tmp_path)
    return str(path)


def test_a_killed_run_drops_what_it_would_have_dropped(tmp_path, monkeypatch):
    path = recipe(tmp_path)
    assert main([path, f"out={tmp_path}/whole", *DROPS]) == 0
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main([path, f"out={tmp_path}/cut", *DROPS])
    heal()
    assert main([path, f"out={tmp_path}/cut", *DROPS]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    main([path, f"out={tmp_path}/none"])
    assert losses(tmp_path / "none") != losses(tmp_path / "whole")
    known = learned({"weights": str(tmp_path / "whole" / "export")})
    assert known.dropped == ("text", "prompt_text", "prompt_audio") and known.instruct is False
    assert learned({"weights": str(tmp_path / "none" / "export")}).dropped == ()


def test_the_comparison_sees_dropping_that_does_not_follow_from_the_seed(tmp_path, monkeypatch):
    path, loose = recipe(tmp_path), Random(0)
    whole = Drop.draw
    monkeypatch.setattr(Drop, "draw", lambda self, random: whole(self, loose))
    main([path, f"out={tmp_path}/whole", *DROPS])
    heal = kill_before(monkeypatch, 5)
    with pytest.raises(Killed):
        main([path, f"out={tmp_path}/cut", *DROPS])
    heal()
    main([path, f"out={tmp_path}/cut", *DROPS])
    assert losses(tmp_path / "cut") != losses(tmp_path / "whole")


def test_what_was_dropped_is_what_guides(tmp_path):
    path = recipe(tmp_path)
    main([path, f"out={tmp_path}/run", "steps=1", "drop.text=0.5"])
    system = build(read(tmp_path / "run" / "export"))
    guide = Guide.of(system, replace(system.sampling, guidance=2.0))
    assert guide.drops == ("text",) and guide.scale == 2.0
    with pytest.raises(CapabilityError, match="never heard an instruction"):
        system.say("Hello.", instruct="in a whisper")
    # what began with these weights knows it, too
    main([path, f"out={tmp_path}/on", "steps=1", f"weights={tmp_path}/run/export"])
    assert learned({"weights": str(tmp_path / "on" / "export")}).dropped == ("text",)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"text": 1.5}, ConfigError, "drop.text is 1.5"),
        ({"speaker": 0.1}, ConfigError, "'speaker' cannot be left out"),
        ({"instruct": 0.1}, DataError, "'drop.instruct' would leave out"),
        ({"prompt": 0.1}, DataError, "'drop.prompt_text' would leave out"),
    ],
)
def test_what_cannot_be_dropped_is_refused(tmp_path, fields, error, message):
    tokens = corpus(tmp_path, prompt=False)
    layout = CosyVoice2(CosyVoice2.Config(pace="words"), text=PHONEMES, codes=MANY)
    with pytest.raises(error, match=message) as caught:
        dropping(Drop(**fields), layout, PHONEMES, tokens)
    assert caught.value.do


def test_a_provenance_of_before_tells_by_its_recipe(tmp_path):
    def told(notes):
        (tmp_path / "provenance.json").write_text(json.dumps({"notes": notes}))
        return learned({"weights": str(tmp_path)})

    assert told({"recipe": {"weights": None}}).instruct is False
    assert told({"recipe": {"weights": "somewhere"}}).instruct is None
    assert told({}).instruct is None and told({}).dropped is None
    assert told({"learned": {"instruct": True, "dropped": ["text"]}}).dropped == ("text",)
    assert learned({}).instruct is None
    assert learned({"weights": str(tmp_path / "nowhere")}).dropped is None
    assert prompt_without(PROMPT, ["text"]) == PROMPT
