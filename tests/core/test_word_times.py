"""Times of words: what the layout drew, in the audio of several pieces, in three formats."""

import json

import pytest
import torch
from tiny_system import HOP, tiny_system

from wishbone.core.audio import word_times
from wishbone.core.cli.main import main
from wishbone.core.contract.errors import UsageError
from wishbone.core.speak import speaker, text_to_speech
from wishbone.core.speak.server import Server
from wishbone.core.speak.utterance import SpokenWord
from wishbone.core.speak.voice import Voice

TEXT = "We go home now. No. Then we stay."


def spoken(text=TEXT, voice=None, **layout):
    system, record = tiny_system(**layout), []
    return text_to_speech.say(system, text, voice, 3, record), record


@pytest.mark.parametrize("fields", [{}, {"lone_word": "again"}, {"lookahead_words": 0}])
def test_every_word_has_its_place_in_the_audio(fields):
    audio, record = spoken(**fields)
    words = [word for utterance in record for word in utterance.words]
    # the tiny tokenizer's words are its letters, as it reads them
    assert [len(u.words) for u in record] == [4, 1, 3]
    assert words[0].word == "we" and words[0].begin == 0
    assert all(a.end <= b.begin for a, b in zip(words, words[1:], strict=False))
    assert all(word.begin <= word.end for word in words)
    assert words[-1].end == pytest.approx(audio.seconds)
    ahead = fields.get("lookahead_words", 2)
    estimated = [word.estimated for word in record[0].words]
    assert estimated == [False] * (3 - ahead) + [True] * ahead + [False]


def test_pieces_begin_behind_their_pause():
    _, record = spoken()
    for before, after in zip(record, record[1:], strict=False):
        assert after.begin == pytest.approx(before.words[-1].end + text_to_speech.PAUSE)


def test_a_word_ends_where_its_last_code_does():
    _, record = spoken("we go home", lookahead_words=0)
    ends = [end.frames for end in record[0].word_ends]
    assert [word.end for word in record[0].words] == pytest.approx([e * HOP / 24_000 for e in ends])
    assert ends == sorted(ends) and ends[-1] == len(record[0].codes)


def test_stream_server_and_voices_time_words_alike():
    system = tiny_system()
    voice = Voice(text=(1, 27, 2, 28), speech=((1,), (2,), (3,)))
    results = []
    for speak in (
        lambda r: text_to_speech.say(system, TEXT, voice, 3, r),
        lambda r: list(text_to_speech.stream(system, iter(TEXT), voice, 3, r)),
        lambda r: list(Server(system, 2).stream(TEXT, voice, 3, r)),
    ):
        record = []
        speak(record)
        results.append([u.words for u in record])
    assert results[0] == results[1] == results[2] and len(results[0]) == 3


def test_no_layout_but_one_by_words_times_them():
    for form in ({"form": "unistream"}, {"pace": "ratio"}):
        assert [u.words for u in spoken(**form)[1]] == [[], [], []]


WORDS = [SpokenWord("a", 0.0, 0.4), SpokenWord('"b"', 1.0, 3661.04, True)]


def test_formats():
    content = json.loads(word_times.as_json(WORDS, 3662))
    assert content["seconds"] == 3662 and content["words"][1] == {
        "word": '"b"', "begin": 1.0, "end": 3661.04, "estimated": True
    }  # fmt: skip
    assert word_times.as_srt(WORDS, 0).split("\n\n")[1] == (
        '2\n00:00:01,000 --> 01:01:01,040\n"b"\n'
    )
    grid = word_times.as_text_grid(WORDS, 3662)
    assert 'text = """b"""' in grid and "intervals: size = 4" in grid
    times = [line.split()[-1] for line in grid.splitlines() if "xm" in line][4:]
    assert times[1:-1:2] == times[2::2] and float(times[-1]) == 3662


@pytest.mark.parametrize("ending", [".json", ".srt", ".TextGrid"])
@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_say_writes_them(tmp_path, monkeypatch, ending, more):
    monkeypatch.setattr(speaker, "load", lambda *_: tiny_system())
    words = ["say", TEXT, "-o", str(tmp_path / "a.wav"), "--words", str(tmp_path / f"a{ending}")]
    assert main([*words, *more]) == 0
    assert "home" in (tmp_path / f"a{ending}").read_text()
    assert main([*words, *more]) == 2


def test_a_layout_that_does_not_know_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speaker, "load", lambda *_: tiny_system(form="unistream"))
    words = ["say", TEXT, "-o", str(tmp_path / "a.wav"), "--words", str(tmp_path / "a.srt")]
    assert main(words) == 2
    assert "does not know when a word ends" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="no ending"):
        word_times.check_target(tmp_path / "a.vtt")


def test_the_sound_is_the_same_with_times():
    assert torch.equal(spoken()[0].samples, spoken()[0].samples)
