"""Sets of prompts: their forms, kinds of sentence, and what training saw of them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from test_ab_parts import plan
from tiny_system import tiny_system

from wishbone.core.cli.evaluation import evaluate
from wishbone.core.config.compose import bundled
from wishbone.core.contract.errors import DataError
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import seed_of
from wishbone.core.evaluate.prompts.contamination import overlaps, summary
from wishbone.core.evaluate.prompts.prompt_lists import read_prompts, voice_of
from wishbone.core.evaluate.prompts.slices import kinds, rates, slices
from wishbone.core.evaluate.record import read_record, record_json
from wishbone.core.evaluate.result import Prompt

KINDS = bundled() / "ab" / "prompts-en-kinds.tsv"


def test_the_bundled_kinds_are_what_they_say():
    prompts = read_prompts(KINDS)
    assert len({prompt.text for prompt in prompts}) == len(prompts) == 500
    counts = Counter(tag for prompt in prompts for tag in prompt.tags)
    assert set(counts) == {
        "numbers", "names", "questions", "long", "short", "twisters", "abbreviations",
    }  # fmt: skip
    assert min(counts.values()) >= 70
    for prompt in prompts:
        words = len(prompt.text.split())
        assert prompt.text.endswith("?") == ("questions" in prompt.tags), prompt
        assert (words >= 25) == ("long" in prompt.tags), prompt
        if "numbers" in prompt.tags:
            assert any(letter.isdigit() for letter in prompt.text), prompt
    assert set(read_prompts(KINDS, 7)[6].tags) == {"abbreviations"}
    hundred = {prompt.text for prompt in read_prompts(bundled() / "ab" / "prompts-en.txt")}
    assert not hundred & {prompt.text for prompt in prompts}


def test_a_list_of_seed_tts_eval_is_read_as_it_is(tmp_path):
    path = tmp_path / "meta.lst"
    path.write_text(
        "a-1|We asked over twenty people.|prompt-wavs/a.wav|The tooth fairy believes in you.\n"
        "a-2|Hello.|prompt-wavs/b.wav|Second sentence.|wavs/a-2.wav\n"
        "a-3|A text alone.\n"
        "a-4.wav|Without transcript.|prompt-wavs/a.wav\n"
    )
    prompts = read_prompts(path)
    assert [prompt.text for prompt in prompts] == [
        "The tooth fairy believes in you.", "Second sentence.", "A text alone.",
        "Without transcript.",
    ]  # fmt: skip
    assert prompts[0].recording == str(tmp_path / "prompt-wavs" / "a.wav")
    assert (prompts[1].transcript, prompts[2].recording) == ("Hello.", None)
    # another recording is another item, and prompts without one keep their seeds
    other = replace(prompts[0], recording="other.wav")
    assert seed_of(1, prompts[0], 0) != seed_of(1, other, 0)
    assert seed_of(1, Prompt("002", "A text alone."), 0) == seed_of(1, prompts[2], 0)
    path.write_text("a|b|c|d|e|f\n")
    with pytest.raises(DataError, match="Line 1 is not of the form"):
        read_prompts(path)
    (tmp_path / "kinds.tsv").write_text("long and no tab\n")
    with pytest.raises(DataError, match="KIND"):
        read_prompts(tmp_path / "kinds.tsv")


def test_a_listed_recording_is_the_voice_unless_another_is_asked_for(tmp_path):
    tone = 0.1 * np.sin(2 * np.pi * 150 * np.arange(24_000) / 24_000)
    soundfile.write(tmp_path / "a.wav", tone, 24_000)
    prompt = Prompt("000", "Say this.", recording=str(tmp_path / "a.wav"), transcript="hello")
    system = tiny_system()
    voice = voice_of(system, prompt, None)
    assert len(voice.speech) == 25 and voice.transcript == "hello"
    assert voice_of(system, prompt, "joe") == "joe"
    assert voice_of(system, Prompt("001", "x"), None) is None


def test_older_results_have_prompts_without_kinds():
    assert record_json(Prompt("000", "a")) == {"key": "000", "text": "a"}
    tagged = Prompt("000", "a", tags=("long", "names"))
    assert read_record(Prompt, record_json(tagged)) == tagged


def test_results_by_kind_are_the_corpus_rates_of_their_sentences(tmp_path):
    tags = [("long",), ("long", "names"), ("short",)]
    given = plan(prompts=15)
    prompts = [replace(p, tags=tags[i % 3]) for i, p in enumerate(given.prompts)]
    given = replace(given, prompts=prompts, metrics={"wer": given.metrics["wer"]})
    assert {tag: len(group) for tag, group in kinds(prompts).items()} == {
        "long": 10, "names": 5, "short": 5,
    }  # fmt: skip
    items = Items(tmp_path / "items.jsonl")
    baseline, arm = (one.key for one in given.arms)
    for i, prompt in enumerate(prompts):
        for name, errors in ((baseline, 1), (arm, 1 + 2 * (i % 3 == 1))):
            row = {"text": prompt.text, "errors": errors, "words": 10, "failure": ""}
            items.add(name, prompt.key, 0, row)
    results = {one.kind: one for one in slices(items, given)}
    assert results["names"].difference == pytest.approx(20) == results["names"].low
    assert results["long"].difference == pytest.approx(10) and results["long"].low < 10
    assert (results["short"].difference, results["short"].prompts) == (0, 5)
    rows = {item.prompt: item.row for item in items.of(arm)}
    assert rates(rows, prompts, "wer") == pytest.approx({"long": 20, "names": 30, "short": 10})
    assert slices(items, replace(given, prompts=plan(prompts=15).prompts)) == []


def test_what_training_saw_is_seen_whole_and_in_part():
    training = [
        "It was a day of lassitude, too; hot and close, with a fluctuating barometer.",
        "Don’t go there.",
    ]
    sentences = [
        "hot and close, with a fluctuating barometer",
        "He said it was a day of lassitude too hot for him to bear.",
        "don't go there now",
        "Don't go there!",
        "A sentence of our own that nobody else wrote down.",
    ]
    seen = overlaps(sentences, training)
    assert [(one.sentence, one.whole) for one in seen] == [(0, True), (1, False), (3, True)]
    lines = summary(sentences, seen, 2)
    # three words are in any language
    assert "1 stand there whole, 1 more share 8 words in a row or more; 1 of fewer" in lines[-1]
    assert "line 2, 8 words or more" in lines[1]


def test_the_bundled_sentences_are_none_of_training(capsys):
    pytest.importorskip("pyarrow", reason="install the extra: pip install wishbone-tts[train]")
    assert evaluate.main(["contamination", str(KINDS)]) == 0
    assert "0 stand there whole, 0 more share" in capsys.readouterr().out
