"""Layouts at their edges: what a field that is left out means, borders, tables, and conditions."""

from dataclasses import FrozenInstanceError, asdict, replace
from random import Random
from types import SimpleNamespace

import pytest

from wishbone.adapters import cosyvoice2_session
from wishbone.adapters.cosyvoice2 import CosyVoice2, Line
from wishbone.adapters.cosyvoice2_rules import CosyVoice2Config, SequenceRules, share_frames
from wishbone.adapters.cosyvoice3 import CosyVoice3
from wishbone.adapters.spark import Spark
from wishbone.adapters.xy import XY
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, ConfigError, DataError
from wishbone.core.contract.layout import IGNORE, Prompt, Sample
from wishbone.core.contract.session import Draw, Emit, Feed, NeedText, SetSpeaker, Stop, WordEnd
from wishbone.core.contract.text import TextSpace

CODES = CodeSpace(size=50, rate=25.0)
TEXT = TextSpace(vocabulary=40, word_ends=frozenset({30, 31}), specials={"<|endofprompt|>": 39})
VOICED = replace(CODES, global_size=9, global_count=4)
THREE = replace(CODES, codebooks=3)


def test_fields_that_a_configuration_lacks_are_those_that_weights_were_trained_with():
    bistream = {
        "form": "unistream", "pace": "ratio", "mix": [5, 15], "lookahead_words": 2,
        "bistream_probability": 0.5, "bistream_min_ratio": 3.0, "min_code_ratio": 2.0,
        "max_code_ratio": 20.0, "min_codes_per_word": 1, "word_base": 15, "word_per_id": 6,
        "codes_per_id": 0.0, "lone_word": "plain", "fill": True, "instruct": "alone",
        "parity": "right",
    }  # fmt: skip
    assert asdict(CosyVoice2.Config()) == bistream
    assert asdict(CosyVoice3.Config()) == {**bistream, "extra_ids": 200}
    assert asdict(Spark.Config()) == {
        "form": "respark", "voice_probability": 0.5, "min_code_ratio": 2.0, "max_code_ratio": 40.0,
    }  # fmt: skip
    assert asdict(XY.Config()) == {
        "speakers": 10, "speaker": 0, "min_code_ratio": 1.0, "max_code_ratio": 10.0,
    }  # fmt: skip


def test_each_layout_says_what_can_be_left_out_and_what_it_has():
    plain = CosyVoice2(CosyVoice2Config(codes_per_id=1.5), text=TEXT, codes=CODES)
    assert plain.conditions == ("text", "instruct", "prompt_text", "prompt_audio")
    assert plain.codes_per_id == 1.5 and plain.instruct_alone and plain.extra == 3
    beside = CosyVoice2(CosyVoice2Config(instruct="beside"), text=TEXT, codes=CODES)
    assert not beside.instruct_alone
    spark = Spark(Spark.Config(), text=TEXT, codes=VOICED)
    assert spark.conditions == ("text", "instruct", "prompt_text", "prompt_audio", "speaker")
    assert spark.tables == {"speech": 51, "text": 40, "global": 9, "marks": 3}
    other = Spark(Spark.Config(form="spark"), text=TEXT, codes=VOICED)
    assert other.tables["marks"] == 9 and other.extra == 1
    xy = XY(XY.Config(), text=TEXT, codes=THREE)
    assert xy.conditions == ("text", "prompt_text", "prompt_audio", "speaker") and xy.extra == 1
    three = CosyVoice3(CosyVoice3.Config(), text=TEXT, codes=CODES)
    assert three.tables == {"speech": 250, "text": 40} and three.extra == 200
    with pytest.raises(FrozenInstanceError):
        plain.rules.text = None


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({"mix": [1, 1]}, True), ({"mix": [0, 1]}, False), ({"mix": [1, 0]}, False),
        ({"mix": [1, 1, 1]}, False), ({"mix": [5, 15], "bistream_min_ratio": 3.0}, True),
        ({"mix": [5, 16], "bistream_min_ratio": 3.0}, False), ({"lookahead_words": 0}, True),
        ({"form": "unistream", "fill": False}, True), ({"form": "bistream", "fill": False}, False),
    ],
)  # fmt: skip
def test_contradictions_begin_where_they_are_some(fields, right):
    if right:
        assert CosyVoice2(CosyVoice2Config(**fields), text=TEXT, codes=CODES)
    else:
        with pytest.raises(ConfigError) as caught:
            CosyVoice2(CosyVoice2Config(**fields), text=TEXT, codes=CODES)
        assert "of the cosyvoice2 layout" in caught.value.where
    told = CosyVoice2Config(mix=[5, 20])
    with pytest.raises(ConfigError) as caught:
        CosyVoice2(told, text=TEXT, codes=CODES)
    assert "3 codes per id a block of 5 ids may lack its 20 codes" in caught.value.what
    assert caught.value.do == "Use at least 4."


@pytest.mark.parametrize(("size", "right"), [(0, False), (1, True), (50, True), (51, False)])
def test_global_codes_are_rows_of_the_speech_table(size, right):
    codes = replace(VOICED, global_size=size)
    if right:
        assert Spark(Spark.Config(), text=TEXT, codes=codes)
    else:
        with pytest.raises(ConfigError, match=f"4 global codes of {size}"):
            Spark(Spark.Config(), text=TEXT, codes=codes)


@pytest.mark.parametrize(("speaker", "right"), [(0, True), (9, True), (10, False), (-1, False)])
def test_a_speaker_is_one_of_those_there_are(speaker, right):
    config = XY.Config(speaker=speaker)
    if right:
        assert XY(config, text=TEXT, codes=THREE).speaker(False) == (1 + speaker,)
        assert XY(config, text=TEXT, codes=THREE).speaker(True) == ()
    else:
        with pytest.raises(ConfigError, match=f"no speaker {speaker} among 10"):
            XY(config, text=TEXT, codes=THREE)


def rules(**fields):
    return SequenceRules(CosyVoice2Config(**fields), TEXT, CODES)


def test_ends_of_words_never_fall_and_the_last_is_the_end():
    words = [(1,), (2,), (3,), (4,)]
    assert rules().word_ends(words, 10, [4, 2, 12, 3]) == [4, 4, 10, 10]
    assert rules().word_ends(words, 10, [-1, 5, 6, 7]) == [0, 5, 6, 10]
    assert rules().word_ends(words, 10, []) == [2, 5, 8, 10]
    assert share_frames([(1, 2), (3,)], 3) == [2, 3] and share_frames([], 3) == []
    with pytest.raises(DataError, match="4 words, but 3 ends"):
        rules().word_ends(words, 10, [1, 2, 3])


def test_ids_behind_the_codes_are_in_the_order_of_the_public_model():
    plain = rules()
    assert (plain.eos, plain.meaningless, plain.fill, plain.extra) == (50, (51,), 52, 3)
    assert (plain.sos, plain.task) == ((2, 0), (2, 1)) and not plain.reads_instruct_first
    assert rules(fill=False).extra == 1
    three = CosyVoice3(CosyVoice3.Config(extra_ids=6), text=TEXT, codes=CODES).rules
    assert (three.eos, three.fill, three.meaningless) == (51, 53, (50, 52, 54, 55))
    assert (three.sos, three.task) == ((0, 50), (0, 52)) and three.reads_instruct_first


@pytest.mark.parametrize(
    ("ids", "fewest"), [([1, 30], 3), ([1, 2, 3, 30], 6), ([1, 30, 2, 31], 2), ([1], 2)]
)
def test_the_fewest_codes_of_words(ids, fewest):
    """1.3 for each id of a lone word, rounded up; one for each of several words."""
    assert rules(form="bistream", pace="words").fewest_codes(ids) == fewest
    assert rules(form="bistream", pace="words", min_codes_per_word=9).fewest_codes([1]) == 9


def test_a_prompt_teaches_nothing_up_to_the_first_code_behind_it():
    line = Line()
    line.put(1, [5, 6])
    line.speak([1, 2, 3])
    line.expect(52)
    targets = list(line.targets)
    assert targets == [IGNORE, 1, 2, 3, 52]
    for count, expected in (
        (0, [IGNORE, 1, 2, 3, 52]), (2, [IGNORE] * 3 + [3, 52]), (3, [IGNORE] * 5),
        (9, [IGNORE] * 5),
    ):  # fmt: skip
        line.targets = list(targets)
        line.ignore_prompt(count, 50)
        assert line.targets == expected
    # the end is none of the codes
    line.targets = [0, 50, 49]
    line.ignore_prompt(1, 50)
    assert line.targets == [IGNORE, IGNORE, 49]


def test_the_last_word_takes_longer_than_the_others():
    part = CosyVoice2(CosyVoice2Config(form="bistream", pace="words"), text=TEXT, codes=CODES)
    session = part.start(Prompt())
    session._spoken = 40
    session._share_ends([(1, 2), (3,), (4, 5)], 10)
    # 2 and 1 ids of 5, and seven tenths of two more: 6.4
    assert session.word_ends == [
        WordEnd(10 + round(30 * 2 / 6.4), False), WordEnd(10 + round(30 * 3 / 6.4), False),
        WordEnd(40, True),
    ]  # fmt: skip
    session._share_ends([], 10)
    assert len(session.word_ends) == 3
    assert session._most_codes((1, 2, 3)) == 15 + 3 * 6
    assert cosyvoice2_session.text([4]) == [(1, (4,))] and cosyvoice2_session.speech([5]) == [
        (0, (5,))
    ]


def driven(session, text, draws, most=500):
    """Actions of a session whose draws are a script, or the first id that is not banned."""
    seen, draws, texts, answer = [], list(draws), iter([text]), None
    for _ in range(most):
        action, answer = session.next(answer), None
        seen.append(action)
        match action:
            case NeedText():
                answer = next(texts, None)
            case Draw():
                code = draws.pop(0) if draws else 7
                rules = action.per_codebook or (action,)
                answer = [code if rule.forced is None else rule.forced for rule in rules]
            case Stop():
                return seen
    raise AssertionError("it never stops")


@pytest.mark.parametrize(("fewest", "most"), [(0.0, 2.0), (1.5, 2.9), (2.0, 3.4)])
@pytest.mark.parametrize("kind", ["cosyvoice2", "spark", "xy"])
def test_bounds_of_codes_are_ratios_rounded_down(kind, fewest, most):
    bounds = {"min_code_ratio": fewest, "max_code_ratio": most}
    part = {
        "cosyvoice2": lambda: CosyVoice2(CosyVoice2Config(**bounds), text=TEXT, codes=CODES),
        "spark": lambda: Spark(Spark.Config(**bounds), text=TEXT, codes=VOICED),
        "xy": lambda: XY(XY.Config(**bounds), text=TEXT, codes=THREE),
    }[kind]()
    prompt = Prompt(global_codes=(1, 2, 3, 4)) if kind == "spark" else Prompt()
    seen = driven(part.start(prompt), [1, 2, 3], [])
    emitted = sum(isinstance(action, Emit) for action in seen)
    assert emitted == int(3 * most) and seen[-1] == Stop("length")
    draws = [action for action in seen if isinstance(action, Draw)]
    rules = [action.per_codebook[0] if action.per_codebook else action for action in draws]
    allowed = [50 not in rule.banned and rule.forced is None for rule in rules]
    assert allowed.index(True) == int(3 * fewest)


def test_a_speaker_without_a_text_is_not_drawn():
    part = Spark(Spark.Config(), text=TEXT, codes=VOICED)
    seen = driven(part.start(Prompt()), [], [])
    assert seen[-1] == Stop("end") and not any(isinstance(action, Draw) for action in seen)
    anonymous = driven(part.start(Prompt(anonymous=True)), [1], [])
    assert SetSpeaker(()) in anonymous
    assert not any(isinstance(a, Draw) and a.utterance_level for a in anonymous)
    with pytest.raises(DataError, match="3 global codes, the codec 4"):
        part.train(Sample([1], [(2,)], global_codes=[1, 2, 3]), Random(0))
    part.train(Sample([1], [(2,)], anonymous=True), Random(0))


def test_properties_of_a_voice_that_is_given_are_not_read():
    part = Spark(Spark.Config(voice_probability=0.5), text=TEXT, codes=VOICED)
    sample = Sample([1], [(2,)], global_codes=[1, 2, 3, 4], instruct=[8])
    given = part.train(sample, SimpleNamespace(random=lambda: 0.5))
    drawn = part.train(sample, SimpleNamespace(random=lambda: 0.49))
    assert len(drawn.table) == len(given.table) + 1 and [1, 8] in [
        [table, row]
        for table, row in zip(drawn.table.tolist(), drawn.ids[:, 0].tolist(), strict=True)
    ]
    assert (given.targets[:, 0] >= 0).sum() == 2 and (drawn.targets[:, 0] >= 0).sum() == 6


def test_a_share_of_the_samples_is_alternating():
    part = CosyVoice2(CosyVoice2Config(bistream_probability=0.25), text=TEXT, codes=CODES)
    sample = Sample(range(6), [(code,) for code in range(30)])
    for number, alternating in ((0.0, True), (0.24, True), (0.25, False), (0.9, False)):
        laid = part.train(sample, SimpleNamespace(random=lambda number=number: number))
        assert (52 in laid.targets[:, 0].tolist()) is alternating
    never = CosyVoice2(CosyVoice2Config(fill=False), text=TEXT, codes=CODES)
    assert max(never.train(sample, SimpleNamespace(random=lambda: 0.0)).targets) == 50


def test_an_instruction_is_closed_once():
    assert rules().close_instruct(()) == [] and rules().close_instruct((1, 39)) == [1, 39]
    assert rules().close_instruct((1,)) == [1, 39]
    bare = SequenceRules(CosyVoice2Config(), TextSpace(vocabulary=9), CODES)
    with pytest.raises(CapabilityError, match="no id for <|endofprompt|>".replace("|", r"\|")):
        bare.close_instruct((1,))
    part = CosyVoice2(CosyVoice2Config(), text=TEXT, codes=CODES)
    seen = driven(part.start(Prompt(instruct=(5,))), [1], [])
    assert seen[0] == Feed([(2, (0,)), (1, (5,)), (1, (39,))])
