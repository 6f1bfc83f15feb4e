"""Other codecs beside one's own: real ones where they are installed, fakes for the arithmetic."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from wishbone.core.cli.evaluation import evaluate
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import DataError
from wishbone.core.contract.extensions.metric import Clip
from wishbone.plugins.reference_codecs import command, peers
from wishbone.plugins.reference_codecs.peers import Peer


def tone(seconds=1.0, rate=24_000, hertz=220):
    """Harmonics of one pitch, as a voice has."""
    time = np.arange(int(seconds * rate)) / rate
    return sum(0.2 / k * np.sin(2 * np.pi * hertz * k * time) for k in range(1, 6)).astype("f4")


def strongest(audio, rate):
    return np.fft.rfftfreq(len(audio), 1 / rate)[np.abs(np.fft.rfft(audio)).argmax()]


def test_opus_keeps_the_pitch_in_the_bits_it_says():
    pytest.importorskip("av", reason="pip install av for Opus")
    pytest.importorskip("scipy", reason="pip install 'wishbone-tts[ab]' to resample")
    audio, rate, bits = peers.opus(tone(2.0), 24_000)
    assert len(audio) / rate == pytest.approx(2.0, abs=0.1)
    assert strongest(audio, rate) == pytest.approx(220, abs=5)
    # of the order asked for, and a hundredth of what the samples take
    assert 2_000 < bits / 2 < 9_000


@pytest.mark.skipif(not shutil.which("c2enc"), reason="install the system's package codec2")
@pytest.mark.parametrize("mode", peers.CODEC2_MODES)
def test_codec2_keeps_the_pitch_in_the_bits_it_says(mode):
    pytest.importorskip("scipy", reason="pip install 'wishbone-tts[ab]' to resample")
    audio, rate, bits = peers.codec2(mode)(tone(2.0), 24_000)
    assert len(audio) / rate == pytest.approx(2.0, abs=0.1)
    assert bits / 2 == pytest.approx(int(mode.rstrip("C")), rel=0.05)
    heard = np.abs(np.fft.rfft(audio))
    near = heard[np.abs(np.fft.rfftfreq(len(audio), 1 / rate) % 220) < 10].sum()
    assert near > 0.15 * heard.sum()


def test_a_program_that_fails_is_named():
    with pytest.raises(DataError, match="false failed with code 1"):
        peers._run(["false"], b"")


def clips(count=3):
    return [Clip(f"{n:03d}", "some words", tone(0.5), 24_000) for n in range(count)]


def test_what_is_missing_is_left_out_with_its_reason():
    def half(audio, rate):
        return audio[::2], rate // 2, 100

    def never(audio, rate):
        raise AssertionError("must not be called")

    made, absent = peers.copies(
        clips(), [Peer("half", half, lambda: ""), Peer("gone", never, lambda: "not installed")]
    )
    assert absent == {"gone": "not installed"}
    copies, bits = made["half"]
    assert [copy.rate for copy in copies] == [12_000] * 3
    assert bits == pytest.approx(300 / 1.5)


def test_bits_of_the_bundled_codes():
    assert peers.bits_of(CodeSpace(size=3**8, rate=25.0)) == pytest.approx(317, abs=0.1)


def rows(*errors):
    return [
        {"key": str(n), "words": 10, "errors": e, "dnsmos": 3.0, "failure": "", "seconds": 1.0}
        for n, e in enumerate(errors)
    ]


def test_the_table_pairs_by_line_and_shows_the_originals():
    original = rows(*range(6))
    lines = peers.table({"ours": (rows(*range(1, 7)), 317.0)}, original, {"gone": "why"})
    assert lines[1].split()[:2] == ["original", "-"] and "+0.0 (+0.0 to +0.0)" in lines[1]
    assert lines[2].split()[:2] == ["ours", "317"] and "+10.0 (+10.0 to +10.0)" in lines[2]
    assert lines[3] == "gone: left out (why)"


class Ears:
    """A scorer that counts what it listens to."""

    def __init__(self, signature="these ears"):
        self.signatures, self.heard = {"wer": signature}, []

    def score(self, clip):
        self.heard.append(clip.key)
        return rows(1)[0] | {"key": clip.key}


class Room:
    def __init__(self, signature="these ears"):
        self.first = Ears(signature)

    def map(self, judge, items):
        return (judge(self.first, item) for item in items)


def test_what_was_heard_is_not_listened_to_again(tmp_path):
    path, first, second = tmp_path / "found.json", Room(), Room()
    loud = [Clip(clip.key, clip.text, clip.audio * (n + 1), 24_000) for n, clip in
            enumerate(clips())]  # fmt: skip
    listening = peers.Listening(first, path)
    before = listening.judge("original", loud)
    listening.judge("ours", clips()[:1], 317.0)
    assert first.first.heard == ["000", "001", "002"]  # the copy of the first is the same sound
    # a new codec: only what it changed is listened to; the others are as they were
    again = peers.Listening(second, path)
    assert again.judge("original", loud) == before
    again.judge("ours", [Clip("000", "some words", tone(0.3), 24_000)], 317.0)
    assert second.first.heard == ["000"]
    sets = json.loads(path.read_text())["sets"]
    assert sets["ours"]["bits_per_second"] == 317.0 and len(sets["original"]["items"]) == 3
    # other judges do not believe these, and a file of something else is refused
    other = Room("others")
    peers.Listening(other, path).judge("original", loud)
    assert len(other.first.heard) == 3
    path.write_text("[1]")
    with pytest.raises(DataError, match="something else"):
        peers.Listening(Room(), path)


def test_a_listening_that_was_stopped_goes_on(tmp_path, monkeypatch):
    path, room = tmp_path / "found.json", Room()
    monkeypatch.setattr(peers.Listening, "EVERY", 1)
    different = [Clip(f"{n}", "x", tone(0.2) * (n + 1), 24_000) for n in range(4)]

    def score(clip):
        if clip.key == "2":
            raise KeyboardInterrupt
        return rows(1)[0] | {"key": clip.key}

    monkeypatch.setattr(room.first, "score", score)
    with pytest.raises(KeyboardInterrupt):
        peers.Listening(room, path).judge("original", different)
    later = Room()
    found = peers.Listening(later, path).judge("original", different)
    assert later.first.heard == ["2", "3"] and [row["key"] for row in found] == list("0123")


def test_the_command_writes_every_line_of_every_codec(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        peers.copies,
        "__defaults__",
        ((Peer("same", lambda audio, rate: (audio, rate, 8), lambda: ""),),),
    )
    monkeypatch.setattr(command, "Panel", lambda threads: Room())
    folder = tmp_path / "audio"
    folder.mkdir()
    for n in range(3):
        soundfile.write(folder / f"{n:03d}.wav", tone(0.4), 24_000)
    (tmp_path / "text").write_text("one\ntwo\nthree\n")
    words = ["codec", "quickstart", "--peers", "--text", str(tmp_path / "text")]
    words += ["--reference", str(folder), "--json", str(tmp_path / "found.json")]
    assert evaluate.main(words) == 0
    found = json.loads((tmp_path / "found.json").read_text())["sets"]
    assert set(found) == {"original", "quickstart", "same"}
    assert len(found["same"]["items"]) == 3
    assert "same" in capsys.readouterr().out
