"""``wishbone say`` with a tiny random system in place of the bundled ones."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_system import tiny_system

from wishbone.core.audio import files
from wishbone.core.audio.files import Audio
from wishbone.core.cli.main import main
from wishbone.core.cli.speech import speaking
from wishbone.core.contract.engines import parse_engine
from wishbone.core.speak import speaker, text_to_speech
from wishbone.core.speak.voice import Voice

TEXT = "We go there. And back again!"


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    """The arguments with which a system was asked for."""
    asked = []

    def load(name, overrides, device, engine):
        asked.append((name, list(overrides), device))
        system = tiny_system()
        system.model.accelerate(*parse_engine(engine))
        return system

    monkeypatch.setattr(speaker, "load", load)
    return asked


def expected(**how):
    return text_to_speech.say(tiny_system(), TEXT, **how).samples


def wav(path):
    return files.read(path).samples


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_says_a_text(tmp_path, capsys, ending):
    out = tmp_path / f"a.{ending}"
    assert main(["say", TEXT, "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: ") and "of real time" in printed
    assert abs(len(wav(out)) - len(expected())) < 100


def test_streaming_writes_the_same_file(tmp_path):
    whole, stream = tmp_path / "a.wav", tmp_path / "b.wav"
    main(["say", TEXT, "-o", str(whole), "--seed", "3"])
    main(["say", TEXT, "-o", str(stream), "--seed", "3", "--stream"])
    assert whole.read_bytes() == stream.read_bytes()
    torch.testing.assert_close(wav(whole), expected(seed=3), atol=1e-4, rtol=0)


def test_system_device_and_overrides(tmp_path, loaded):
    out = str(tmp_path / "a.wav")
    main(["say", TEXT, "sampling.top_k=3", "-o", out, "--system", "x.yaml", "a.b=1"])
    assert loaded == [("x.yaml", ["sampling.top_k=3", "a.b=1"], "cpu")]


def test_text_from_a_file_and_from_stdin(tmp_path, monkeypatch, loaded):
    (tmp_path / "text.txt").write_text("\ufeff" + TEXT, encoding="utf-8")
    one, two, three = (str(tmp_path / name) for name in ("1.wav", "2.wav", "3.wav"))
    main(["say", "--file", str(tmp_path / "text.txt"), "a=1", "-o", one])
    assert loaded[0][1] == ["a=1"]
    for out, how in ((two, []), (three, ["--stream"])):
        monkeypatch.setattr(sys, "stdin", io.StringIO(TEXT.replace(". ", ".\n")))
        main(["say", "-", "-o", out, *how])
    assert torch.equal(wav(one), wav(two)) and torch.equal(wav(one), wav(three))


def test_raw_samples_to_stdout(monkeypatch, capsys):
    class Out(io.StringIO):
        buffer = io.BytesIO()

    monkeypatch.setattr(sys, "stdout", Out())
    assert main(["say", TEXT, "-o", "-", "--stream"]) == 0
    samples = np.frombuffer(Out.buffer.getvalue(), "<i2")
    np.testing.assert_allclose(samples / 32767, expected().numpy(), atol=1e-4)
    assert "standard output: " in capsys.readouterr().err


def test_a_recording_of_another_rate_as_voice(tmp_path):
    recording, out = tmp_path / "me.wav", tmp_path / "a.wav"
    Audio(torch.sin(torch.arange(20_000) / 9), 16_000).save(recording)
    asked = ["--voice", str(recording), "--transcript", "one two three"]
    assert main(["say", TEXT, "-o", str(out), *asked]) == 0
    voice = Voice.from_audio(tiny_system(), recording, "one two three")
    torch.testing.assert_close(wav(out), expected(voice=voice), atol=1e-4, rtol=0)
    saved = voice.save(tmp_path / "me.yaml")
    main(["say", TEXT, "-o", str(out), "--voice", str(saved), "--force"])
    torch.testing.assert_close(wav(out), expected(voice=voice), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "words, said",
    [
        (["", "-o", "a.wav"], "There is no text"),
        (["  ", "-o", "a.wav"], "There is no text"),
        (["-o", "a.wav"], "There is no text"),
        (["?!", "-o", "a.wav"], "Nothing in the text"),
        (["hi"], "required: -o/--out"),
        (["hi", "-o", "a.mp4"], "'.mp4' is not an ending"),
        (["hi", "-o", "no/a.wav"], "folder does not exist"),
        (["hi", "-o", "old.wav"], "exists already"),
        (["hello", "there", "-o", "a.wav"], "'there' is neither the text nor"),
        (["--file", "none.txt", "-o", "a.wav"], "No such file"),
        (["--file", "latin.txt", "-o", "a.wav"], "not UTF-8"),
        (["hi", "-o", "a.wav", "--voice", "tone.wav"], "needs its transcript"),
        (["--revoice", "tone.wav", "-o", "a.wav"], "nothing that the decoder"),
        (["hi", "--revoice", "tone.wav", "-o", "a.wav"], "'hi' is neither the text nor"),
        (["hi", "-o", "a.wav", "--voice", "me.wav", "--transcript", "x"], "no such audio file"),
        (["hi", "-o", "a.wav", "--transcript", "x"], "no recording"),
        (["hi", "-o", "a.wav", "--voice", "nobody"], "no voice 'nobody'"),
        (["hi", "-o", "a.wav", "--seed", "x"], "invalid int value"),
    ],
)
def test_errors_are_three_lines(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "old.wav").write_bytes(b"")
    Audio(torch.sin(torch.arange(20_000) / 9), 16_000).save(tmp_path / "tone.wav")
    assert main(["say", *words]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 3 and said in printed[0]
    assert {path.name for path in tmp_path.iterdir()} == {"latin.txt", "old.wav", "tone.wav"}


def test_an_instruction_needs_a_tokenizer_that_can_close_it(tmp_path, capsys):
    asked = ["say", TEXT, "-o", str(tmp_path / "a.wav"), "--instruct", "in a whisper"]
    assert main(asked) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 3 and "an instruction would be spoken" in printed[0]
    assert not list(tmp_path.iterdir())


def test_a_saved_voice_says_the_same(tmp_path):
    recording, kept = tmp_path / "me.wav", tmp_path / "me.yaml"
    Audio(torch.sin(torch.arange(20_000) / 9), 16_000).save(recording)
    first, second = tmp_path / "a.wav", tmp_path / "b.wav"
    asked = ["--voice", str(recording), "--transcript", "one two three", "--save-voice", str(kept)]
    main(["say", TEXT, "-o", str(first), *asked])
    assert Voice.load(kept).state is not None
    main(["say", TEXT, "-o", str(second), "--voice", str(kept)])
    assert first.read_bytes() == second.read_bytes()


def test_bytes_of_standard_input_may_end_inside_a_letter(monkeypatch):
    class Slow(io.BytesIO):
        def read1(self, size=-1):
            return self.read(1)

    class Terminal:
        buffer = Slow("\ufeffça va? 好。".encode())

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert "".join(speaking._standard_input()) == "ça va? 好。"


def test_force_replaces_a_file(tmp_path):
    out = tmp_path / "a.wav"
    out.write_bytes(b"old")
    assert main(["say", TEXT, "-o", str(out), "--force"]) == 0
    assert len(wav(out)) == len(expected())


def test_pieces_cut_by_the_length_rule_are_told(tmp_path, capsys, monkeypatch):
    from wishbone.core.speak import speaker

    system = tiny_system(word_base=2, word_per_id=0, lookahead_words=0)
    with torch.no_grad():
        system.model.head.out.bias[50:] = -100.0
    monkeypatch.setattr(speaker, "load", lambda *asked: system)
    main(["say", TEXT, "-o", str(tmp_path / "a.wav")])
    said = capsys.readouterr().err
    assert "2 of 2 pieces ended by the length rule" in said
    record = []
    text_to_speech.say(system, TEXT, record=record)
    words = sum(utterance.cut_words for utterance in record)
    assert words > 0 and f"{words} words inside the pieces were ended by the length rule" in said


def test_a_guide_is_refused_where_nothing_was_learned_and_doubted_where_nobody_knows(
    tmp_path, capsys, monkeypatch
):
    system = tiny_system()
    monkeypatch.setattr(speaker, "load", lambda *asked: system)
    asked = ["say", TEXT, "-o", str(tmp_path / "a.wav"), "--guidance", "2"]
    assert main(asked) == 2
    assert "never trained with a condition left out" in capsys.readouterr().err
    system.sampling.guidance_drops = ["text"]
    assert main(asked) == 0
    assert "learned to do without text" in capsys.readouterr().err
    guided = text_to_speech.say(system, TEXT, guidance=2.0).samples
    assert torch.allclose(wav(tmp_path / "a.wav"), guided, atol=1e-4)
    assert main([*asked, "--revoice", "x.wav"]) == 2


def test_no_samples_are_an_error_and_no_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(text_to_speech, "stream", lambda *_, **__: iter([torch.zeros(0)]))
    assert main(["say", TEXT, "-o", str(tmp_path / "a.wav")]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "said nothing" in lines[0]
    assert not list(tmp_path.iterdir())


def test_an_untrained_model_is_told(tmp_path, capsys, monkeypatch):
    system = tiny_system()
    monkeypatch.setattr(speaker, "load", lambda *asked: system)
    main(["say", TEXT, "-o", str(tmp_path / "a.wav")])
    assert capsys.readouterr().err.count("untrained") == 1
    system.config["weights"] = "somewhere"
    main(["say", TEXT, "-o", str(tmp_path / "b.wav")])
    assert "untrained" not in capsys.readouterr().err


def test_help_imports_no_torch():
    code = "import sys, wishbone.core.cli.speech.say; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_the_engine_is_chosen_and_told(tmp_path, capsys):
    out = str(tmp_path / "a.wav")
    assert main(["say", TEXT, "-o", out, "--engine", "eager"]) == 0
    assert "engine eager" in capsys.readouterr().out
    assert main(["say", TEXT, "-o", out, "--force", "--engine", "native:int8"]) == 2
    assert "cannot use the engine 'native' with int8 weights" in capsys.readouterr().err
    assert main(["say", TEXT, "-o", out, "--force", "--engine", "native:int4"]) == 2
    assert "'native:int4' is not an engine" in capsys.readouterr().err
