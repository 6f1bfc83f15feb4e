"""Alignment: the best path is the best one, tones are found where they lie, texts stay whole."""

import io

import numpy as np
import pytest
import soundfile
import torch

from wishbone.core.contract.errors import DataError, UsageError
from wishbone.core.contract.extensions.teacher import Word

pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")

from wishbone.core.cli.data import main  # noqa: E402
from wishbone.core.cli.main import main as run  # noqa: E402
from wishbone.core.data.shards import gathered  # noqa: E402
from wishbone.core.data.sources import parts  # noqa: E402
from wishbone.core.data.speak import write_audio  # noqa: E402
from wishbone.plugins.aligner import align as aligning  # noqa: E402
from wishbone.plugins.aligner import aligner  # noqa: E402
from wishbone.plugins.aligner.aligner import Aligner, Alignment, best_path  # noqa: E402

RATE = 24_000
HERTZ = {"a": 300, "e": 900, "s": 4_000, "z": 2_000}
"""A phoneme is a tone here."""


def by_trying_all(scores, line, optional):
    """The same as ``best_path``, by brute force."""
    best, found = -np.inf, None

    def go(place, frame, total, ends):
        nonlocal best, found
        if place == len(line):
            if frame == len(scores) and total > best:
                best, found = total, ends
            return
        if optional[place]:
            go(place + 1, frame, total, [*ends, frame])
        for end in range(frame + aligner.LEAST, len(scores) + 1):
            gain = scores[frame:end, line[place]].sum()
            go(place + 1, end, total + gain, [*ends, end])

    go(0, 0, 0.0, [])
    return found


@pytest.mark.parametrize("line", [[0, 1, 0, 2, 3, 0], [1, 2], [0, 2, 1, 0, 3, 0], [1, 0, 2, 0]])
def test_the_path_is_the_best_of_all(line):
    random = np.random.default_rng(len(line))
    for _ in range(5):
        scores = 2 * random.normal(size=(10, 4))
        classes = np.array(line)
        wanted = by_trying_all(scores, classes, classes == 0)
        assert best_path(scores, classes, classes == 0).tolist() == wanted


def test_too_few_frames_are_refused():
    line = np.array([0, 1, 2, 3, 0])
    with pytest.raises(DataError, match="shorter than its text"):
        best_path(np.zeros((5, 4)), line, line == 0)


def sound_of(words, random, long=0.12):
    """Tones and pauses -> samples, word ends, phoneme ends."""
    pieces, ends, phoneme_ends, time = [], [], [], 0.0
    for word in words:
        for phoneme in word.phonemes:
            seconds = long * random.uniform(0.7, 1.5)
            at = np.arange(round(seconds * RATE)) / RATE
            pieces.append(
                0.3 * np.sin(2 * np.pi * HERTZ[phoneme] * random.uniform(0.95, 1.05) * at)
            )
            time += len(at) / RATE
            phoneme_ends.append(time)
        if word.separator != " ":
            pieces.append(np.zeros(round(0.3 * RATE)))
            time += 0.3
        ends.append(time)
    samples = np.concatenate(pieces)
    return samples + 1e-3 * random.normal(size=len(samples)), ends, phoneme_ends


def words_of(text):
    marks = {"a": " "}
    return [
        Word(w, tuple(w.strip(",.")), w[-1] if w[-1] in ",." else marks["a"]) for w in text.split()
    ]


def text_of(random):
    words = ["".join(random.choice(list(HERTZ), 3, replace=False)) for _ in range(4)]
    return f"{words[0]} {words[1]}, {words[2]} {words[3]}."


class FrontEnd:
    words = staticmethod(words_of)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(aligner, "BATCH", 4)
    monkeypatch.setattr(aligner, "CROP", 120)
    monkeypatch.setattr(aligning, "_front_end", lambda name: FrontEnd())


@pytest.fixture
def like(tmp_path):
    """A teacher's audio data."""
    random, rows = np.random.default_rng(0), []
    for number in range(24):
        text = text_of(random)
        words = words_of(text)
        samples, ends, phoneme_ends = sound_of(words, random)
        rows.append(
            {
                "id": f"t{number}", "text": text, "words": [w.spelling for w in words],
                "phonemes": [" ".join(w.phonemes) for w in words],
                "separators": [w.separator for w in words], "ends": ends,
                "phoneme_ends": phoneme_ends, "seconds": len(samples) / RATE, "speaker": "",
                "audio": flac(samples),
            }
        )  # fmt: skip
    write_audio(tmp_path / "like" / "000000.parquet", rows)
    return tmp_path / "like"


def flac(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="FLAC")
    return buffer.getvalue()


@pytest.fixture
def voice(tmp_path):
    """A folder of recordings: silence around, one prompt twice, one with another's text."""
    random, folder = np.random.default_rng(7), tmp_path / "voice"
    folder.mkdir()
    lines, truth = ["file\ttext"], {}
    texts = [text_of(random) for _ in range(6)]
    for number, text in enumerate([*texts, texts[0], texts[1]]):
        samples, _, ends = sound_of(words_of(text), random)
        quiet = 1e-3 * random.normal(size=RATE // 2)
        soundfile.write(folder / f"v{number}.wav", np.concatenate([quiet, samples, quiet]), RATE)
        said = "zzz eee, sss aaa." if number == 7 else text
        lines.append(f"v{number}.wav\t{said}")
        truth[f"v{number}"] = ends
    (folder / "metadata.tsv").write_text("\n".join(lines) + "\n")
    return folder, truth


def command(folder, like, out, *more):
    return main(
        ["align", str(folder), "--like", str(like), "--out", str(out), "--steps", "60",
         "--rounds", "0", *map(str, more)]
    )  # fmt: skip


def test_the_command_is_a_subcommand_of_data_too(capsys):
    def help_of(command, *words):
        with pytest.raises(SystemExit):
            command([*words, "--help"])
        return capsys.readouterr().out

    assert "align " in help_of(main)
    assert "--like" in help_of(main, "align")
    assert help_of(main, "align") == help_of(run, "align")


def test_recordings_become_audio_data(tmp_path, small, like, voice, capsys):
    folder, truth = voice
    out = tmp_path / "out"
    command(folder, like, out, "--speaker", "tones", "--least", "-1.2")
    assert "within 50 ms" in capsys.readouterr().err
    found = list(parts([out])[0].recordings())
    # the recording that says something else is left out, and its score is the reason
    assert [each.id for each in found] == [f"v{n}" for n in range(7)]
    dropped = gathered(out).shards["voice-000000"]["dropped"]
    assert dropped[0]["id"] == "v7" and "something else" in dropped[0]["reason"]
    for each in found:
        ends = np.array(each.phoneme_ends)
        # half a second of silence was cut to a tenth; how much exactly, the first end tells
        moved = np.array(truth[each.id]) + aligning.BEFORE
        assert np.median(np.abs(ends - moved)) < 0.03
        assert each.speaker == "tones" and len(each.ends) == 4
        assert each.ends[-1] == pytest.approx(len(each.audio) / RATE)
        assert [word.separator for word in each.words] == [" ", ",", " ", "."]
    # an aligner that learned nothing is far off: the test above can fail
    torch.manual_seed(0)
    unlearned = Aligner(sorted(HERTZ))
    features = aligner.features_of(found[0].audio, RATE)
    off = np.array(unlearned.align(features, found[0].words).ends) - moved_of(found[0], truth)
    assert np.median(np.abs(off)) > 0.05


def moved_of(recording, truth):
    return np.array(truth[recording.id]) + aligning.BEFORE


def test_all_recordings_of_a_text_are_on_one_side(tmp_path, small, like, voice):
    out, aside = tmp_path / "out", tmp_path / "aside"
    command(voice[0], like, out, "--least", -99, "--hold-out", 0.5, "--held-out", aside)
    kept = {each.text for each in parts([out])[0].recordings()}
    held = {each.text for each in parts([aside])[0].recordings()}
    assert kept and held and not kept & held
    assert aligning.share_of("Good night!") == aligning.share_of("good-night")


def test_a_second_call_learns_nothing_again(tmp_path, small, like, voice, monkeypatch):
    out = tmp_path / "out"
    command(voice[0], like, out)
    before = (out / "voice-000000.parquet").read_bytes()
    (out / "voice-000000.parquet").unlink()
    monkeypatch.setattr(aligner, "train", None)
    command(voice[0], like, out)
    assert (out / "voice-000000.parquet").read_bytes() == before


def test_what_was_learned_serves_other_recordings(tmp_path, small, like, voice, monkeypatch):
    command(voice[0], like, tmp_path / "out")
    monkeypatch.setattr(aligner, "train", None)
    learned = tmp_path / "out" / "aligner.safetensors"
    words = ["align", str(like), "--learned", str(learned), "--out", str(tmp_path / "again")]
    assert main(words) == 0
    again = next(parts([tmp_path / "again"])[0].recordings())
    known = next(parts([like])[0].recordings())
    assert again.words == known.words
    assert np.median(np.abs(np.array(again.phoneme_ends) - known.phoneme_ends)) < 0.03
    with pytest.raises(DataError, match="no such file"):
        main([*words[:3], str(tmp_path / "nothing"), *words[4:]])
    with pytest.raises(UsageError, match="nothing to learn from"):
        main([*words, "--like", str(like)])


def test_a_pause_becomes_a_comma_and_belongs_to_the_word_before_it():
    words = words_of("as es. za")
    starts, ends = (0.1, 0.2, 0.6, 0.7, 0.8, 0.9), (0.2, 0.35, 0.7, 0.8, 0.9, 1.0)
    alignment = Alignment(starts, ends, -1.0)
    assert [w.separator for w in aligning.with_pauses(words, alignment)] == [",", ".", " "]
    assert aligning.word_ends(words, alignment, 1.2) == [0.6, 0.8, 1.2]


def test_what_cannot_be_learned_from_or_said_is_refused(tmp_path, small, like, voice):
    with pytest.raises(DataError, match="No recording here says when"):
        command(voice[0], voice[0], tmp_path / "out")
    with pytest.raises(UsageError, match="a share and a folder"):
        command(voice[0], like, tmp_path / "out", "--hold-out", 0.1)
    with pytest.raises(DataError, match="unknown phoneme: 'x'"):
        Aligner(["a"]).align(torch.zeros(64, 50), [Word("x", ("x",), ".")])
