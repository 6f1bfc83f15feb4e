"""Every mode of CosyVoice2 on a release of random weights: its prompt, its codes, its samples."""

from dataclasses import replace
from pathlib import Path

import cosyvoice2_release as releases
import pytest
import torch
from cosyvoice2_release import SAID, SHORT, recording, spoken

from wishbone.core.audio import files as audio_files
from wishbone.core.cli.main import main
from wishbone.core.contract.errors import CheckpointError, ConfigError, WishboneError
from wishbone.core.speak import text_to_speech
from wishbone.core.speak import voice as voices
from wishbone.core.speak import voice_conversion as conversion
from wishbone.core.speak.speaker import build
from wishbone.core.speak.voice import Voice, find
from wishbone.plugins.cosyvoice2.release import files

pytest.importorskip("onnxruntime", reason="ears: pip install 'wishbone-tts[cosyvoice2]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return releases.write(tmp_path_factory.mktemp("releases") / "CosyVoice2-0.5B")


@pytest.fixture(scope="module")
def system(folder):
    return build(releases.config(folder, **SHORT))


def test_zero_shot_puts_the_recording_before_the_text(system):
    voice = Voice.from_audio(system, recording(), "One two.")
    prompt = voice.prompt(system)
    assert prompt.text and len(prompt.speech) == 25 and not prompt.instruct
    assert voice.heard["codes"].tolist() == [list(code) for code in voice.speech]
    assert voice.heard["mel"].shape == (50, 80) and voice.heard["speaker"].shape == (192,)
    assert spoken(system, voice=voice)[0] != spoken(system)[0]


def test_the_transcript_is_read_as_text_is(system):
    voice = Voice.from_audio(system, recording(), "2 words")
    assert voice.text == Voice.from_audio(system, recording(), "two words").text


def test_cross_lingual_takes_over_the_sound_alone(system):
    voice = Voice.from_audio(system, recording())
    prompt = voice.prompt(system)
    assert not prompt.text and not prompt.speech and voice.heard
    codes, samples = spoken(system, voice=voice)
    plain_codes, plain_samples = spoken(system)
    assert codes == plain_codes and not torch.equal(samples, plain_samples)


def test_an_instruction_stands_in_the_recordings_place(system):
    voice = Voice.from_audio(system, recording(), "One two.").instructed("in a whisper")
    prompt = voice.prompt(system)
    assert not prompt.text and not prompt.speech
    assert system.tokenizer.decode(prompt.instruct) == "in a whisper"
    positions = system.layout.start(prompt).next().positions
    ids = [row for table, (row,) in positions if table == 1]
    assert system.tokenizer.decode(ids) == "in a whisper<|endofprompt|>"
    codes, _ = spoken(system, voice=voice)
    assert codes == spoken(system, instruct="in a whisper")[0] != spoken(system)[0]
    assert codes == spoken(system, instruct="in a whisper<|endofprompt|>")[0]


def test_an_instruction_may_stand_beside_it(folder):
    both = build(releases.config(folder, layout=SHORT["layout"] | {"instruct": "beside"}))
    voice = Voice.from_audio(both, recording(), "One two.").instructed("in a whisper")
    prompt = voice.prompt(both)
    assert prompt.text and prompt.speech and prompt.instruct


def test_marks_are_one_id_each(system):
    record = []
    text_to_speech.say(system, SAID, record=record)
    assert system.tokenizer.space.specials["[laughter]"] in record[0].ids


def test_presets_are_voices(system):
    plain, recorded = find("plain", system), find("recorded", system)
    assert not plain.speech and set(plain.heard) == {"speaker"}
    assert recorded.text == (5, 6, 7) and len(recorded.speech) == 9
    sounds = [spoken(system, voice=name)[1] for name in ("plain", "recorded")]
    assert not torch.equal(*sounds)
    with pytest.raises(ConfigError, match="no voice 'plaim'") as caught:
        find("plaim", system)
    assert "plain" in caught.value.do


def test_voice_conversion_hands_codes_on(system):
    voice, source = Voice.from_audio(system, recording()), recording(0.6)
    converted = torch.cat(list(conversion.revoice(system, source, voice)))
    codes = system.speech_tokenizer.encode(source.samples)
    stream = system.decoder.start(prompt=voice.heard)
    expected = torch.cat([stream.push(codes), stream.finish()])
    assert len(converted) == 960 * 15
    torch.testing.assert_close(converted, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["unistream", "bistream"])
def test_a_saved_voice_goes_on_without_prefill(folder, tmp_path, monkeypatch, form):
    system = build(releases.config(folder, layout=SHORT["layout"] | {"form": form}))
    voice = Voice.from_audio(system, recording(), "One two.", name="me")
    expected = spoken(system, voice=voice, seed=4)
    path = voice.with_state(system).save(tmp_path / "me.yaml")
    for module in (text_to_speech, voices):
        monkeypatch.setattr(module, "prefix", None)
    later = build(releases.config(folder, layout=SHORT["layout"] | {"form": form}))
    codes, samples = spoken(later, voice=path, seed=4)
    assert codes == expected[0] and torch.equal(samples, expected[1])


def test_text_is_spoken_before_it_is_complete(folder):
    system = build(releases.config(folder, layout={"name": "cosyvoice2", "form": "bistream"}))
    words = "Hello there, how are you and one two three four five six seven?".split()
    read, record = [], []

    def writer():
        for word in words:
            read.append(word)
            yield f"{word} "

    stream = text_to_speech.stream(system, writer(), record=record)
    first = next(chunk for chunk in stream if len(chunk))
    assert len(first) and len(read) < len(words) and not record[0].reason
    remaining = list(stream)
    assert len(read) == len(words) and remaining
    sentence = " ".join(words)
    assert record[0].text == sentence and list(record[0].ids) == system.tokenizer.encode(sentence)
    assert len(record) == 1 and record[0].reason


def test_streaming_and_another_request_change_nothing(system):
    alone = text_to_speech.stream(system, SAID, "recorded", seed=1)
    expected = list(alone)
    first = text_to_speech.stream(system, SAID, "recorded", seed=1)
    other = text_to_speech.stream(system, "Something else entirely.", "plain", seed=2)
    mixed = []
    for chunk in first:
        mixed.append(chunk)
        next(other, None)
    assert torch.equal(torch.cat(mixed), torch.cat(expected))


def test_one_line_puts_an_rwkv_in_the_transformers_place(folder):
    swapped = releases.config(folder, **SHORT)
    backbone = {"name": "rwkv7", "width": 64, "layers": 2, "head_size": 16}
    swapped = build(releases.resolve(releases.Config({**swapped, "backbone": backbone})))
    assert "untrained" in swapped.notes[0] and "RWKV7" in swapped.notes[0]
    llm = files.load_tensors(folder / "llm.pt", "language model")
    assert torch.equal(swapped.model.head.output.bias, llm["llm_decoder.bias"])
    codes, _ = spoken(swapped, voice="recorded")
    assert codes


def test_the_command_speaks(folder, tmp_path, capsys):
    system = releases.write_system(tmp_path / "tiny.yaml", folder, **SHORT)
    out, source = tmp_path / "a.wav", tmp_path / "me.wav"
    recording().save(source)
    command = ["say", SAID, "--system", str(system), "-o", str(out), "--force"]
    for more in (
        [],
        ["--voice", "plain"],
        ["--voice", str(source)],
        ["--voice", str(source), "--transcript", "one two", "--stream"],
        ["--voice", str(source), "--instruct", "in a whisper"],
    ):
        assert main([*command, *more]) == 0, capsys.readouterr().err
        assert audio_files.read(out).seconds > 0.1
    assert main(["say", "--revoice", str(source), "--system", str(system), "--voice", "plain",
                 "-o", str(out), "--force"]) == 0  # fmt: skip
    assert abs(audio_files.read(out).seconds - 1.0) < 0.05
    assert "untrained" not in capsys.readouterr().err


def test_a_system_without_a_folder_says_so():
    bare = releases.config(rows=400)
    with pytest.raises(WishboneError, match="names no release") as caught:
        text_to_speech.say(build(bare), "Hello.")
    assert "weights=FOLDER" in caught.value.do


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(WishboneError) as caught:
        build(releases.config(Path(tmp_path) / "nowhere"))
    assert len(caught.value.lines()) == 3 and "nowhere" in str(caught.value)


def test_a_voice_of_another_tokenizer_is_refused(system):
    voice = Voice.from_audio(system, recording(), "One two.")
    with pytest.raises(CheckpointError, match="tokenizer"):
        replace(voice, tokenizer="phonemes").prompt(system)
