"""Whose voice it is, and whether a long text stays good, with ears that are fakes."""

import io
import itertools
import json

import numpy as np
import pytest
import soundfile

from wishbone.core.cli.evaluation import evaluate
from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.contract.extensions.metric import Clip
from wishbone.core.evaluate.measure import long_text, speaker_identity
from wishbone.core.evaluate.measure.long_text import Stretch, cut, errors_at_start
from wishbone.plugins.metrics.speaker_similarity import SpeakerSimilarity

RATE = 16_000


def unit(*values):
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def test_shares_are_counted_among_all_and_in_pairs():
    references = {"a": unit(1, 0, 0), "b": unit(0, 1, 0), "c": unit(0, 0.6, 1)}
    spoken = {
        "a": np.stack([unit(1, 0.1, 0)] * 4),
        "b": np.stack([unit(0, 1, 0.1), unit(0, 0.3, 1), unit(0, 1, 0), unit(0.9, 1, 0)]),
        "c": np.stack([unit(0, 0, 1), np.zeros(3)]),
    }
    found = speaker_identity.shares(spoken, references)
    assert found.right == {"a": 1.0, "b": 0.75, "c": 0.5}
    assert found.heard["b"] == {"a": 0, "b": 3, "c": 1}
    # a failed utterance is wrong, and sounds like nobody
    assert found.heard["c"] == {"a": 0, "b": 0, "c": 1}
    assert found.pairs["a", "b"] == 1.0
    assert found.pairs["b", "c"] == pytest.approx(4 / 6)
    assert found.worst == (("b", "c"), found.pairs["b", "c"])
    lines = speaker_identity.lines_of(found, spoken)
    assert "75.0 % of 4" in lines[1] and "1 as c" in lines[1]
    assert "worst of 3 pairs: b and c, 66.7 %" in lines[4]


def hum(hertz, seed):
    time = np.arange(RATE) / RATE
    return 0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * np.random.default_rng(seed).normal(
        size=RATE
    )


@pytest.fixture
def ears(monkeypatch):
    """A voice is its pitch: one of three directions."""

    def embed(self, clip):
        audio = clip.at(RATE)
        hertz = np.fft.rfftfreq(len(audio), 1 / RATE)[np.abs(np.fft.rfft(audio)).argmax()]
        return np.pad(unit(hertz < 200, 200 <= hertz < 400, hertz >= 400), (0, 253))

    monkeypatch.setattr(SpeakerSimilarity, "embed", embed)


def folders(path, **pitches):
    for name, several in pitches.items():
        (path / name).mkdir(parents=True)
        for number, hertz in enumerate(several):
            soundfile.write(path / name / f"{number:03d}.wav", hum(hertz, number), RATE)
    return path


def test_the_command_tells_voices_apart_and_fails_where_it_cannot(tmp_path, ears, capsys):
    known = folders(tmp_path / "known", low=[100, 120], high=[500])
    said = folders(tmp_path / "said", low=[110, 130, 500], high=[600])
    named = [f"{name}={known / name}" for name in ("low", "high")]
    kept = tmp_path / "found.json"
    words = ["voices", str(said), *named, "--json", str(kept)]
    assert evaluate.main(words) == 0
    assert "66.7 % of 3 nearest to itself; 1 as high" in capsys.readouterr().out
    found = json.loads(kept.read_text())
    assert found["right"] == {"low": pytest.approx(2 / 3), "high": 1.0}
    assert evaluate.main([*words, "--right-least", "0.7"]) == 0
    with pytest.raises(GateFailed, match="low and high are told apart 0.75"):
        evaluate.main([*words, "--right-least", "0.9"])


def test_voices_must_be_named_and_there(tmp_path, ears):
    known = folders(tmp_path / "known", low=[100])
    for wrong in (["low"], [f"low={known}/low"] * 2, ["=x"]):
        with pytest.raises(UsageError, match="does not name a voice"):
            evaluate.main(["voices", str(known), *wrong])
    with pytest.raises(UsageError, match="no recording here"):
        evaluate.main(["voices", str(known), f"low={tmp_path}/known"])


def edits(text, heard):
    row = list(range(len(heard) + 1))
    for number, word in enumerate(text, start=1):
        new = [number]
        for place, other in enumerate(heard):
            new.append(min(row[place] + (word != other), row[place + 1] + 1, new[place] + 1))
        row = new
    return row[-1]


def test_the_beginning_that_fits_best_is_found():
    random = np.random.default_rng(0)
    for _ in range(60):
        text = random.choice(list("abc"), random.integers(1, 9)).tolist()
        heard = random.choice(list("abc"), random.integers(0, 7)).tolist()
        least = min(edits(text[:n], heard) for n in range(len(text) + 1))
        errors, words = errors_at_start(text, heard)
        assert errors == least == edits(text[:words], heard)
        longer = range(words + 1, len(text) + 1)
        assert all(edits(text[:n], heard) > least for n in longer)


def test_cuts_lie_in_silence_and_lose_nothing():
    random = np.random.default_rng(0)
    audio = random.normal(size=60 * RATE).astype("f4")
    for second in (20, 38):
        audio[second * RATE : int((second + 0.3) * RATE)] = 0
    pieces = cut(audio, RATE)
    assert np.array_equal(np.concatenate(pieces), audio)
    assert all(len(piece) <= long_text.LONGEST * RATE for piece in pieces)
    ends = np.cumsum([len(piece) for piece in pieces])[:-1] / RATE
    assert 20 <= ends[0] <= 20.3 and 38 <= ends[1] <= 38.3


class Ears:
    """Hears the words that were put into the samples: the value says which word of the text."""

    def __init__(self, text, wrong=()):
        self.words, self.wrong = text.split(), wrong

    def transcribe(self, audio):
        numbers = [int(n) for n, _ in itertools.groupby(np.round(audio * 1000))]
        return " ".join("wrong" if n in self.wrong else self.words[n - 1] for n in numbers)

    def set_reference(self, clips):
        (self.reference,) = clips

    def measure(self, key, clip):
        assert clip.rate == RATE
        if key == "similarity":
            assert self.reference.audio[0] < clip.audio[0]
        heard = self.transcribe(clip.audio) if key == "wer" else ""
        return {"heard": heard, "dnsmos": 3.0, "similarity": 0.9}


def long_clip(words=20, each=0.5):
    text = " ".join(f"w{chr(97 + n)}x" for n in range(words))
    audio = np.repeat(np.arange(1, words + 1) / 1000, int(each * RATE)).astype("f4")
    return Clip("long", text, audio, RATE)


def test_only_the_errors_of_each_end_count(monkeypatch):
    monkeypatch.setattr(long_text, "compared", lambda *texts: tuple(map(str.split, texts)))
    clip = long_clip()
    first, last, like = long_text.measure(Ears(clip.text), clip, 3.0)
    assert (first.errors, first.words, last.errors, last.words) == (0, 6, 0, 6)
    assert like == 0.9
    # words 3, 10 and 19 are heard wrong: one in the first stretch, one in neither, one in the last
    first, last, _ = long_text.measure(Ears(clip.text, {3, 10, 18, 19}), clip, 3.0)
    assert (first.errors, last.errors) == (1, 2)
    assert last.wer == pytest.approx(100 * 2 / 6)
    with pytest.raises(UsageError, match="not two stretches"):
        long_text.measure(Ears(clip.text), clip, 6.0)


def test_the_drift_command_has_a_limit(tmp_path, monkeypatch, capsys):
    pair = (Stretch(1, 100, 1.0, 3.0, ""), Stretch(4, 100, 4.0, 2.9, ""), 0.8)
    monkeypatch.setattr(long_text, "measure", lambda scorer, clip, seconds: pair)
    soundfile.write(tmp_path / "a.wav", hum(200, 0), RATE)
    words = ["drift", str(tmp_path / "a.wav"), "--json", str(tmp_path / "found.json")]
    assert evaluate.main([*words, "--drift-most", "3"]) == 0
    assert "drift +3.0 points" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["last"]["errors"] == 4
    with pytest.raises(GateFailed, match="grew by 3.0"):
        evaluate.main([*words, "--drift-most", "2"])


def test_the_text_is_as_long_as_asked_for():
    lines = ["A line of words.", "And another one."]
    text = long_text._text(lines, 1.0)
    assert 900 <= len(text) <= 920 and text.startswith("A line of words. And another one. A line")


def test_references_may_be_audio_data(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]'")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'wishbone-tts[train]'")
    rows = []
    for number in range(3):
        file = io.BytesIO()
        soundfile.write(file, hum(200, number), RATE, format="FLAC")
        rows.append({"id": f"s{number}", "text": "hm", "speaker": "me", "audio": file.getvalue()})
    folder = tmp_path / "data"
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "000.parquet")
    for source in (folder, folder / "000.parquet"):
        clips = speaker_identity.recordings(source, 2)
        assert [clip.key for clip in clips] == ["s0", "s1"]
        assert clips[0].rate == RATE and len(clips[0].audio) == RATE
