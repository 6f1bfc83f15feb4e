"""The training side of the cosyvoice2 layout against sequences written out by hand."""

from random import Random

import pytest

from wishbone.adapters.cosyvoice2 import CosyVoice2
from wishbone.adapters.cosyvoice2_rules import share_frames, split_words
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import CapabilityError, ConfigError, DataError
from wishbone.core.contract.layout import IGNORE, Sample
from wishbone.core.contract.text import TextSpace

CODES = CodeSpace(size=6561, rate=25.0)
TEXT = TextSpace(vocabulary=200, word_ends=frozenset({100, 101}))
"""Ids 100 and 101 close a word."""


def layout(text=TEXT, codes=CODES, **fields):
    return CosyVoice2(CosyVoice2.Config(**fields), text=text, codes=codes)


def names(positions):
    """Rows as words: t3 is text id 3, s3 is code 3; one list for inputs and one for targets."""
    marks = {6561: "EOS", 6563: "FILL", IGNORE: "_"}
    inputs = []
    for table, row in zip(positions.table.tolist(), positions.ids[:, 0].tolist(), strict=True):
        inputs.append([f"s{row}", f"t{row}", ("SOS", "TASK")[min(row, 1)]][table])
    targets = [marks.get(row, f"s{row}") for row in positions.targets[:, 0].tolist()]
    return inputs, targets


def lay(n, m, **fields):
    sample = Sample(text=range(n), speech=[(s,) for s in range(m)])
    return names(layout(**fields).train(sample, Random(0)))


def t(begin, end):
    return [f"t{i}" for i in range(begin, end)]


def s(begin, end):
    return [f"s{i}" for i in range(begin, end)]


def test_unistream_golden():
    inputs, targets = lay(3, 4, bistream_probability=0.0)
    assert inputs == ["SOS", "t0", "t1", "t2", "TASK", "s0", "s1", "s2", "s3"]
    assert targets == ["_", "_", "_", "_", "s0", "s1", "s2", "s3", "EOS"]


def test_bistream_golden_with_a_rest_of_text():
    inputs, targets = lay(7, 32, bistream_probability=1.0)
    assert inputs == ["SOS", *t(0, 5), *s(0, 15), "t5", "t6", "TASK", *s(15, 32)]
    assert targets == ["_"] * 5 + [*s(0, 15), "FILL", "_", "_", *s(15, 32), "EOS"]
    assert len(inputs) == 41


def test_bistream_golden_without_a_rest_of_text():
    inputs, targets = lay(5, 20, bistream_probability=1.0)
    assert inputs == ["SOS", *t(0, 5), *s(0, 15), "TASK", *s(15, 20)]
    assert targets == ["_"] * 5 + [*s(0, 15), "FILL", *s(15, 20), "EOS"]
    assert len(inputs) == 27


def test_a_ratio_of_exactly_three_is_unistream():
    inputs, _ = lay(5, 15, bistream_probability=1.0)
    assert inputs == ["SOS", *t(0, 5), "TASK", *s(0, 15)]
    inputs, _ = lay(5, 16, bistream_probability=1.0)
    assert inputs == ["SOS", *t(0, 5), *s(0, 15), "TASK", "s15"]


def test_half_of_the_samples_are_bistream():
    part, random = layout(), Random(1)
    sample = Sample(text=range(7), speech=[(c,) for c in range(32)])
    bistream = [part.train(sample, random).table.tolist()[1:7] for _ in range(400)]
    assert 160 < sum(tables[5] == 0 for tables in bistream) < 240


def test_fill_is_never_an_input():
    inputs, targets = lay(23, 100, bistream_probability=1.0)
    assert targets.count("FILL") == 4
    assert "s6563" not in inputs and inputs.count("TASK") == 1


WORDS = [1, 2, 100, 3, 100, 4, 5, 100, 6, 101]
"""Four words: of three, two, three and two ids."""


def test_words_golden():
    sample = Sample(text=WORDS, speech=[(c,) for c in range(12)], word_ends=[4, 6, 9, 11])
    part = layout(pace="words", lookahead_words=1, bistream_probability=1.0)
    inputs, targets = names(part.train(sample, Random(0)))
    first = ["t1", "t2", "t100", "t3", "t100"]
    second, third = ["t4", "t5", "t100"], ["t6", "t101"]
    assert inputs == ["SOS", *first, *s(0, 4), *second, *s(4, 6), *third, "TASK", *s(6, 12)]
    assert targets == (
        ["_"] * 5 + [*s(0, 4), "FILL", "_", "_", *s(4, 6), "FILL", "_", "_", *s(6, 12), "EOS"]
    )


def test_a_word_without_codes_lets_fill_follow_fill():
    sample = Sample(text=WORDS, speech=[(c,) for c in range(6)], word_ends=[3, 3, 5, 6])
    part = layout(pace="words", lookahead_words=0, bistream_probability=1.0)
    inputs, targets = names(part.train(sample, Random(0)))
    assert inputs == (
        ["SOS", "t1", "t2", "t100", *s(0, 3), "t3", "t100", "t4", "t5", "t100", *s(3, 5)]
        + ["t6", "t101", "TASK", "s5"]
    )
    assert targets == (
        ["_", "_", "_", *s(0, 3), "FILL", "_", "FILL", "_", "_", *s(3, 5), "FILL"]
        + ["_", "_", "s5", "EOS"]
    )


def test_few_words_are_unistream():
    sample = Sample(text=WORDS, speech=[(c,) for c in range(12)], word_ends=[4, 6, 9, 11])
    few = layout(pace="words", lookahead_words=3, bistream_probability=1.0)
    assert names(few.train(sample, Random(0))) == names(
        layout(bistream_probability=0.0).train(sample, Random(0))
    )


def test_missing_word_ends_are_shared_out_by_ids():
    assert share_frames([(1, 2, 3), (4,)], 8) == [6, 8]
    speech = [(c,) for c in range(20)]
    part = layout(pace="words", lookahead_words=1, bistream_probability=1.0)
    guessed = part.train(Sample(text=WORDS, speech=speech), Random(0))
    told = part.train(Sample(text=WORDS, speech=speech, word_ends=[6, 10, 16, 20]), Random(0))
    assert names(guessed) == names(told)


def test_wrong_word_ends_are_refused():
    part = layout(pace="words", bistream_probability=1.0)
    with pytest.raises(DataError, match="4 words, but 2 ends"):
        part.train(Sample(text=WORDS, speech=[(0,)], word_ends=[1, 1]), Random(0))


def test_words_of_ids():
    assert split_words(WORDS, TEXT.word_ends) == [(1, 2, 100), (3, 100), (4, 5, 100), (6, 101)]
    assert split_words([7, 8], TEXT.word_ends) == [(7, 8)]
    assert split_words([], TEXT.word_ends) == []


def test_a_model_without_fill_has_the_end_alone():
    part = layout(fill=False)
    assert part.extra == 1 and part.tables["speech"] == 6562
    sample = Sample(text=range(7), speech=[(s,) for s in range(32)])
    targets = part.train(sample, Random(1)).targets.flatten().tolist()
    assert max(targets) == 6561
    with pytest.raises(ConfigError, match="cannot alternate"):
        layout(fill=False, form="bistream")


def test_an_instruction_stands_before_the_text_in_training_as_in_speaking():
    text = TextSpace(vocabulary=200, specials={"<|endofprompt|>": 199})
    sample = Sample(text=range(3), speech=[(0,), (1,)], instruct=[50, 51])
    inputs, targets = names(layout(text=text, bistream_probability=0.0).train(sample, Random(0)))
    assert inputs == ["SOS", "t50", "t51", "t199", "t0", "t1", "t2", "TASK", "s0", "s1"]
    assert targets == ["_"] * 7 + ["s0", "s1", "EOS"]
    with pytest.raises(CapabilityError, match="endofprompt"):
        layout().train(sample, Random(0))


@pytest.mark.parametrize(
    ("fields", "ids", "fewest"),
    [
        ({"min_code_ratio": 2.0}, [1, 2, 3], 6),
        ({"min_code_ratio": 1.5, "form": "bistream"}, [1, 2, 3], 4),
        ({"min_code_ratio": 0.0}, [1, 2, 3], 0),
        # words are counted only where the form goes by them
        ({"min_code_ratio": 2.0, "pace": "words"}, [1, 2, 3], 6),
        ({"form": "bistream", "pace": "words", "min_codes_per_word": 3}, [1, 100, 2, 100], 6),
        # the only word is a last one: 1.3 codes an id
        ({"form": "bistream", "pace": "words", "min_codes_per_word": 1}, [1, 2, 100], 4),
        ({"form": "bistream", "pace": "words", "min_codes_per_word": 9}, [1, 2, 100], 9),
    ],
)
def test_a_text_has_a_fewest_number_of_codes(fields, ids, fewest):
    assert layout(**fields).fewest_codes(ids) == fewest


@pytest.mark.parametrize("form", ["unistream", "bistream"])
@pytest.mark.parametrize("pace", ["ratio", "words"])
def test_the_form_tells_what_a_layout_does(form, pace):
    part = layout(form=form, pace=pace)
    assert part.alternates == (form == "bistream")
    assert part.times_words == (form == "bistream" and pace == "words")
    forms = CosyVoice2.spoken_forms(part.config)
    assert forms[0] is part.config
    assert {each.form for each in forms} == {"unistream", "bistream"}
    assert {each.pace for each in forms} == {pace}


def test_tables():
    assert list(layout().tables.items()) == [("speech", 6564), ("text", 200), ("marks", 2)]
    assert layout().extra == 3


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"form": "both"}, "not a form"),
        ({"pace": "syllables"}, "not a pace"),
        ({"parity": "down"}, "not a parity"),
        ({"mix": [5]}, "two positive numbers"),
        ({"mix": [5, 20]}, "may lack"),
        ({"lookahead_words": -1}, "negative"),
        ({"pace": "words", "text": TextSpace(vocabulary=9)}, "cannot tell words"),
        ({"codes": CodeSpace(size=9, rate=25.0, codebooks=2)}, "2 codebooks"),
    ],
)
def test_contradictions_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        layout(**fields)
