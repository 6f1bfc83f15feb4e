"""Marks for events and dialects: ids at the end, tables that grow there, refusals."""

import pytest
import torch

from wishbone.core.contract import sentences, tags
from wishbone.core.contract.errors import CheckpointError, ConfigError
from wishbone.core.speak.speaker import build
from wishbone.core.system.build import build_model
from wishbone.core.system.spec import read
from wishbone.core.system.vocabulary_growth import TABLE, grown
from wishbone.core.weights.checkpoint import save
from wishbone.core.weights.provenance import provenance
from wishbone.core.weights.tensor_files import read_tensors
from wishbone.plugins.cosyvoice2 import frontend
from wishbone.plugins.phonemes.characters import CharacterTokenizer
from wishbone.plugins.phonemes.tokenizer import PhonemeTokenizer

KINDS = [PhonemeTokenizer, CharacterTokenizer]
MARKS = ["[laughter]", "<strong>", "</strong>", "<|dialect:us|>"]
SYSTEM = """
tokenizer: {{name: {name}, marks: {marks}}}
speech_tokenizer: {{name: fsqcodec, width: 16, fine_blocks: 1, blocks: 1}}
layout: {{name: cosyvoice2, pace: words}}
backbone: {{name: rwkv7, width: 64, layers: 1, head_size: 64}}
head: {{name: fsq, rank: 4}}
decoder: {{name: fsqcodec}}
"""


def said(cls, sentence, learned=MARKS):
    tokenizer = cls(cls.Config(marks=list(learned)))
    return tokenizer.decode(tokenizer.encode(sentence))


@pytest.mark.parametrize("cls", KINDS)
def test_marks_have_ids_at_the_end_and_change_no_other(cls):
    old, new = cls(), cls(cls.Config(marks=MARKS))
    size = old.space.vocabulary
    assert [new.space.specials[mark] for mark in MARKS] == list(range(size, size + 4))
    assert new.space.word_ends == old.space.word_ends and new.space.blank == old.space.blank == 0
    for sentence in ("Hello, world! It is 5.", "So - it goes", "a, b?! c", "...", ""):
        assert new.encode(sentence) == old.encode(sentence)
    more = cls(cls.Config(marks=[*MARKS, "[breath]"]))
    assert more.encode("Ha [laughter]!") == new.encode("Ha [laughter]!")


def test_a_mark_is_part_of_a_word():
    assert said(CharacterTokenizer, "Hi [laughter] there.") == "hi [laughter]there."
    assert (
        said(CharacterTokenizer, "Ha [laughter], yes [laughter].") == "ha,[laughter]yes[laughter]."
    )
    assert said(CharacterTokenizer, "I <strong>really</strong> do") == (
        "i <strong>really</strong> do."
    )
    assert said(PhonemeTokenizer, "I <strong>really</strong> do") == (
        "aɪ <strong>ɹˈɪli</strong> du."
    )
    for cls in KINDS:
        tokenizer = cls(cls.Config(marks=MARKS))
        ends = tokenizer.space.word_ends
        for sentence, words in (("<|dialect:us|> Go on [laughter]", 2), ("a [laughter] b", 2)):
            ids = tokenizer.encode(sentence)
            assert sum(row in ends for row in ids) == words and ids[-1] in ends
        assert tokenizer.encode("[laughter]") == [tokenizer.space.specials["[laughter]"]]
        assert (
            tokenizer.encode("<|dialect:us|><|endofprompt|>a")[1]
            == (tokenizer.space.specials["<|endofprompt|>"])
        )


@pytest.mark.parametrize("cls", KINDS)
def test_an_unknown_mark_is_read_as_words_with_a_warning(cls, recwarn):
    with pytest.warns(UserWarning, match=r"'\[cough\]' is no mark"):
        unknown = said(cls, "Hi [cough] there.", MARKS)
    assert unknown == said(cls, "Hi cough there.", MARKS)
    recwarn.clear()
    said(cls, "Hi [laughter] there, 3 < 5 [Ed.].")
    assert not [w for w in recwarn if "is no mark" in str(w.message)]


def test_all_front_ends_take_the_same_for_a_mark():
    assert frontend.MARK is tags.MARK
    cut = sentences.best_cut("no place to cut it <|dialect:us|> and so on")
    assert not 19 < cut < 32
    assert sentences.best_cut("no place to cut it, dialect: us and so on") == 29


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (["laughter"], "does not look like one"),
        (["[a]", "[a]"], "is there twice"),
        (["<|endofprompt|>"], "has an id already"),
    ],
)
def test_marks_that_make_no_sense_are_refused(wrong, why):
    for cls in KINDS:
        with pytest.raises(ConfigError, match=why) as caught:
            cls(cls.Config(marks=wrong))
        assert caught.value.where == "tokenizer.marks" and caught.value.do


def system(folder, learned=(), weights=None, name="characters"):
    path = folder / "system.yaml"
    body = SYSTEM.format(name=name, marks=list(learned))
    path.write_text(body + (f"weights: {weights}\n" if weights else ""))
    return read(path)


def saved(folder, config, model):
    save(folder, model, config, provenance(config))
    return folder


def test_old_weights_load_into_more_marks_and_say_the_same(tmp_path):
    torch.manual_seed(1)
    config = system(tmp_path)
    old = build_model(config).eval()
    folder = saved(tmp_path / "old", config, old)
    more = system(tmp_path, MARKS[:2], folder)
    grown = build(more)
    new, table = grown.model, grown.model.state_dict()[TABLE]
    before = old.state_dict()
    assert len(table) == len(before[TABLE]) + 2
    assert torch.equal(table[:-2], before[TABLE])
    torch.testing.assert_close(table[-1], before[TABLE].mean(0))
    assert torch.equal(table[-1], table[-2])
    others = {name for name in before if name != TABLE}
    assert all(torch.equal(new.state_dict()[name], before[name]) for name in others)
    assert "never heard of [laughter], <strong>" in grown.notes[0]
    # what is said to old ids is the same to the bit; a new id says something else
    ids = torch.randint(1, 40, (1, 9, 1))
    places = torch.ones(1, 9, dtype=torch.int64)
    with torch.no_grad():
        assert torch.equal(old.head(old(places, ids)[0]), new.head(new(places, ids)[0]))
        ids[0, 3] = len(before[TABLE])
        changed = new.head(new(places, ids)[0])
        assert not torch.equal(changed[0, 3], old.head(old(places, ids % 40)[0])[0, 3])
    # round trip: saved, loaded, and grown once more
    again = saved(tmp_path / "new", more, new)
    same = build(system(tmp_path, MARKS[:2], again))
    assert torch.equal(same.model.state_dict()[TABLE], table) and not same.notes
    third = build_model(system(tmp_path, MARKS, again)).state_dict()[TABLE]
    assert torch.equal(third[:-2], table) and len(third) == len(table) + 2
    assert TABLE in read_tensors(again / "model.safetensors")


def test_a_moved_row_would_be_seen(tmp_path, monkeypatch):
    config = system(tmp_path)
    old = build_model(config)
    folder = saved(tmp_path / "old", config, old)
    front = lambda table, count: grown(table, count).roll(count, 0)  # noqa: E731
    monkeypatch.setattr("wishbone.core.system.vocabulary_growth.grown", front)
    table = build_model(system(tmp_path, MARKS, folder)).state_dict()[TABLE]
    assert not torch.equal(table[:-4], old.state_dict()[TABLE])


def test_marks_cannot_be_taken_away_or_moved(tmp_path):
    config = system(tmp_path, MARKS[:2])
    folder = saved(tmp_path / "old", config, build_model(config))
    for learned in ([], MARKS[:1], MARKS[1::-1], [MARKS[3], *MARKS[:2]]):
        with pytest.raises(CheckpointError, match="would change their meaning") as caught:
            build_model(system(tmp_path, learned, folder))
        assert "in their order" in caught.value.do


def test_another_tokenizer_is_no_growth(tmp_path):
    config = system(tmp_path)
    folder = saved(tmp_path / "old", config, build_model(config))
    with pytest.raises(CheckpointError, match=TABLE):
        build_model(system(tmp_path, [], folder, "phonemes"))
    (folder / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=TABLE):
        build_model(system(tmp_path, MARKS, folder))
