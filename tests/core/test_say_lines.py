"""``wishbone say --lines``: numbered files, each what its line sounds like alone."""

import signal

import pytest
from tiny_system import tiny_system

from wishbone.core.audio import files
from wishbone.core.cli.main import main
from wishbone.core.contract.errors import UsageError
from wishbone.core.speak import speaker, text_to_speech

LINES = ["We go there. And back again!", "", "Stop.", "?!...", "One more line of words."]


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """The overrides with which a system was asked for."""
    asked = []

    def load(name, overrides, device, engine):
        asked.append(list(overrides))
        return tiny_system()

    monkeypatch.setattr(speaker, "load", load)
    return asked


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def test_every_line_becomes_the_file_of_its_number(tmp_path, source, capsys, loaded):
    out = tmp_path / "said.wav"
    words = ["say", "--lines", str(source), "-o", str(out), "--seed", "5", "head.rank=4"]
    assert main(words) == 0
    made = sorted(path.name for path in tmp_path.glob("*.wav"))
    assert made == ["said-0001.wav", "said-0003.wav", "said-0005.wav"]
    for number in (1, 3, 5):
        whole = text_to_speech.say(tiny_system(), LINES[number - 1], seed=5).samples
        ours = files.read(tmp_path / f"said-{number:04d}.wav").samples
        assert len(ours) == len(whole) and (ours - whole).abs().max() < 1e-4
    printed = capsys.readouterr()
    assert "3 lines" in printed.out and "up to 3 at once" in printed.out
    assert "nothing in line 4" in printed.err
    assert loaded == [["head.rank=4"]]


def test_nothing_is_replaced_unless_told_to(tmp_path, source, capsys, loaded):
    taken = tmp_path / "said-0003.wav"
    taken.write_bytes(b"mine")
    words = ["say", "--lines", str(source), "-o", str(tmp_path / "said.wav"), "--together", "1"]
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert taken.read_bytes() == b"mine" and not loaded
    assert main([*words, "--force"]) == 0
    assert taken.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--stream"], "do not go together"),
        (["--file", "other.txt"], "do not go together"),
        (["--together", "0"], "outside its range"),
        (["-o", "-"], "cannot go to standard output"),
    ],
)
def test_what_does_not_fit_is_refused_first(tmp_path, source, capsys, loaded, more, said):
    words = ["say", "--lines", str(source), "-o", str(tmp_path / "a.wav"), *more]
    assert main(words) == 2
    assert said in capsys.readouterr().err and not loaded


def test_a_file_without_a_word_is_an_error(tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("...\n!\n")
    assert main(["say", "--lines", str(tmp_path / "lines.txt"), "-o", str(tmp_path / "a.wav")]) == 2
    assert "No line holds anything" in capsys.readouterr().err


def test_a_stopped_command_goes_on(tmp_path, source, capsys, monkeypatch):
    words = ["say", "--lines", str(source), "-o", str(tmp_path / "said.wav"), "--together", "1"]
    save = files.Audio.save

    def stop(self, path, overwrite=False):
        if path.name == "said-0003.wav":
            signal.raise_signal(signal.SIGTERM)
        return save(self, path, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(files.Audio, "save", stop)
        assert main(words) == 130
    assert "stopped: 1 of 3 lines are spoken; the same command goes on" in capsys.readouterr().err
    first = tmp_path / "said-0001.wav"
    before = first.stat().st_mtime_ns
    assert main([*words, "--seed", "9"]) == 2
    assert "was spoken otherwise" in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr()
    assert "1 of 3 lines are there already" in said.err and "2 lines" in said.out
    assert first.stat().st_mtime_ns == before
    assert len(list(tmp_path.glob("*.wav"))) == 3 and not list(tmp_path.glob(".*"))


def test_a_line_that_fails_is_named_and_others_are_spoken(tmp_path, source, capsys, monkeypatch):
    stream = text_to_speech.stream

    def fail(system, text, *arguments, **more):
        if text.startswith("Stop"):
            raise UsageError("No.", "here", "Give another line.")
        return stream(system, text, *arguments, **more)

    monkeypatch.setattr(text_to_speech, "stream", fail)
    assert main(["say", "--lines", str(source), "-o", str(tmp_path / "said.wav")]) == 5
    assert "line 3 failed: No." in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == [
        "said-0001.wav",
        "said-0005.wav",
    ]
