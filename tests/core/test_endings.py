"""Every sentence begins and ends: what is counted, and that the count is of the right sentences."""

import json

import pytest
from tiny_system import tiny_system

from wishbone.core.cli.evaluation import evaluate
from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.evaluate.experiment.generate import Generation
from wishbone.core.evaluate.measure import completion
from wishbone.core.speak import speaker
from wishbone.core.speak.text_to_speech import stream


def test_every_text_is_said_with_every_seed_as_it_is_said_alone():
    system, texts = tiny_system(), ["one two", "three four five"]
    rows = list(completion.endings(system, texts, seeds=3, slots=2))
    assert sorted((row["text"], row["seed"]) for row in rows) == sorted(
        (text, seed) for text in texts for seed in range(3)
    )
    for row in rows:
        alone = sum(len(chunk) for chunk in stream(system, row["text"], None, row["seed"]))
        assert row["seconds"] == pytest.approx(alone / system.decoder.sample_rate, abs=1e-3)


def test_what_cannot_be_said_is_a_failure_with_its_error_and_the_rest_goes_on():
    rows = list(completion.endings(tiny_system(), ["...", "one two"], seeds=1, slots=2))
    assert rows[0]["failure"] == "error" and "can be spoken" in rows[0]["error"]
    assert rows[1]["error"] == "" and rows[1]["seconds"] > 0


def test_short_texts_are_counted_in_every_voice(monkeypatch, tmp_path, capsys):
    system, wide = tiny_system(), tiny_system(lone_word="again", word_base=8)
    monkeypatch.setattr(speaker, "load", lambda name, overrides, engine: wide if name else system)
    (tmp_path / "text").write_text("a\nb\n")
    wanted = ["--deaf", "--voice", "own", "--seeds", "2", "--text", str(tmp_path / "text")]
    assert evaluate.main(["short", "wide", *wanted, "--json", str(tmp_path / "j")]) == 0
    rows = json.loads((tmp_path / "j").read_text())["items"]
    assert [(row["text"], row["seed"]) for row in rows] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    record = []
    chunks = stream(wide, "b", None, 1, record)
    assert rows[3]["seconds"] == sum(map(len, chunks)) / wide.decoder.sample_rate
    assert rows[3]["redraws"] == len(record[0].redraws)
    lost = sum(row["seconds"] < completion.LOST for row in rows)
    assert f"{lost} of 4" in capsys.readouterr().out
    for row in rows:
        row.update(errors=0, words=1, errors_base=row["seed"], words_base=1, voice="x")
    table = completion.short_table(rows, ["wer", "wer_base"])
    assert table.rows[-1][:1] == ["all"]
    assert table.rows[-1][2:5] == ["4 of 4", "2 of 4", "2 of 4"]
    with pytest.raises(GateFailed, match="were lost"):
        tiny = tiny_system(word_base=1, word_per_id=0)
        monkeypatch.setattr(speaker, "load", lambda name, overrides, engine: tiny)
        evaluate.main(["short", "tiny", *wanted, "--lost-most", "0"])


def row(failure="", seconds=2.0, text="a sentence of some length"):
    return {"seed": 0, "text": text, "seconds": seconds, "failure": failure, "cut_words": 1,
            "error": ""}  # fmt: skip


def test_what_failed_is_counted_by_its_kind():
    lines = completion.summary([row(), row("empty", 0.0), row("ran on", 90.0), row("ran on", 80.0)])
    assert "4 utterances" in lines[0] and "3 failed, 1 empty, 2 ran on" in lines[0]
    assert "0 least" in lines[1] and "3600 most" in lines[1] and "length rule: 4" in lines[1]
    assert len(lines) == 2


def test_no_failure_among_few_says_little():
    assert completion.summary([row()] * 300)[2] == "so at most 1.00 % fail (95 %)"


def test_the_command_holds_the_count_against_a_limit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speaker, "load", lambda name, engine: tiny_system())
    (tmp_path / "text").write_text("one two three\nfour\n")

    def speak(system, text, seed, *_):
        failure = "empty" * ("one" in text)
        return Generation(
            seed=seed, computing=0.1, seconds=2.0, codes=50, cut_words=1, engine="eager",
            failure=failure, error="",
        ), None  # fmt: skip

    monkeypatch.setattr(completion.generate, "speak", speak)
    wanted = ["endings", "tiny", "--text", str(tmp_path / "text"), "--seeds", "2"]
    kept = tmp_path / "kept.json"
    with pytest.raises(GateFailed, match="2 of 4"):
        evaluate.main([*wanted, "--failures-most", "1", "--json", str(kept)])
    assert "empty  one two three" in capsys.readouterr().out
    assert len(json.loads(kept.read_text())["items"]) == 4
    assert evaluate.main([*wanted, "--failures-most", "2"]) == 0
    with pytest.raises(Exception, match="no voice 'nobody'"):
        evaluate.main([*wanted, "--voice", "nobody"])
    with pytest.raises(UsageError, match="outside its range"):
        evaluate.main([*wanted, "--seeds", "0"])
