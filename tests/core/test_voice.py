"""Voices: from a recording, to files and back, and refused where they do not fit."""

from dataclasses import replace

import pytest
import torch
from tiny_system import HOP, tiny_system

from wishbone.core.audio.files import Audio
from wishbone.core.contract.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    UnknownName,
    UsageError,
    WishboneError,
)
from wishbone.core.speak import text_to_speech
from wishbone.core.speak import voice as voices
from wishbone.core.speak.voice import Voice, find, fingerprint
from wishbone.core.weights.tensor_files import read_tensors, write_tensors

WORDS = "one two three four"


def recording(rate=24_000, seconds=1.2):
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(round(seconds * rate)) / rate
    return Audio(0.5 * torch.sin(440 * time) * torch.rand(1, generator=generator), rate)


def test_from_audio():
    system = tiny_system()
    voice = Voice.from_audio(system, recording(), WORDS, name="me", licence="CC0-1.0")
    assert voice.text == tuple(system.tokenizer.encode(WORDS))
    assert len(voice.speech) == round(1.2 * 24_000) // HOP
    assert voice.codec == fingerprint(system.speech_tokenizer) and voice.state is None


def test_from_a_file_of_another_rate(tmp_path):
    system = tiny_system()
    path = recording(16_000).save(tmp_path / "voice.wav")
    voice = Voice.from_audio(system, path, WORDS)
    assert len(voice.speech) == 30


def test_a_voice_changes_what_is_said():
    system = tiny_system()
    voice = Voice.from_audio(system, recording(), WORDS)
    plain, spoken = [], []
    text_to_speech.say(system, "We go.", record=plain)
    text_to_speech.say(system, "We go.", voice, record=spoken)
    assert plain[0].codes != spoken[0].codes


@pytest.mark.parametrize("form", ["unistream", "bistream"])
def test_save_and_load_continue_exactly(tmp_path, form):
    system = tiny_system(form=form)
    voice = Voice.from_audio(system, recording(), WORDS, name="me", word_ends=[6, 12, 20, 29])
    plain = text_to_speech.say(system, "We go there now.", voice, seed=5).samples
    kept = voice.with_state(system)
    loaded = Voice.load(kept.save(tmp_path / "me.yaml"))
    assert loaded.state is not None and loaded.word_ends == (6, 12, 20, 29)
    for one in (kept, loaded, str(tmp_path / "me.yaml"), tmp_path / "me.safetensors"):
        assert torch.equal(
            text_to_speech.say(system, "We go there now.", one, seed=5).samples, plain
        )


def test_what_the_decoder_heard_is_kept_and_given_back(tmp_path, monkeypatch):
    system, given = tiny_system(), []
    decoder, begin = type(system.decoder), system.decoder.start
    monkeypatch.setattr(
        decoder, "hear", lambda self, audio, codes: {"size": torch.tensor([len(audio), len(codes)])}
    )
    monkeypatch.setattr(
        decoder, "start", lambda self, **named: given.append(named["prompt"]) or begin(**named)
    )
    # at 16 kHz: the decoder hears it at its own rate
    voice = Voice.from_audio(system, recording(16_000), WORDS, name="me")
    loaded = Voice.load(voice.save(tmp_path / "me.yaml"))
    text_to_speech.say(system, "We go.", loaded)
    text_to_speech.say(system, "We go.")
    assert given[0]["size"].tolist() == [28_800, 30] and given[1] is None


@pytest.mark.parametrize("global_codes", [(), (3, 0, 7)])
def test_codes_of_the_whole_recording_are_kept(tmp_path, global_codes):
    voice = Voice(name="me", text=(1, 2), speech=((3,),), global_codes=global_codes)
    path = voice.save(tmp_path / "me.yaml")
    assert Voice.load(path).global_codes == global_codes
    saved = read_tensors(path.with_suffix(".safetensors"))
    assert ("global_codes" in saved) == bool(global_codes)


def test_a_recording_that_is_none_is_named_by_its_file(tmp_path):
    silent = Audio(torch.zeros(48_000), 24_000)
    path = silent.save(tmp_path / "silent.wav")
    for audio, where in ((path, str(path)), (str(path), str(path)), (silent, "the recording")):
        with pytest.raises(WishboneError) as caught:
            Voice.from_audio(tiny_system(), audio, WORDS)
        assert where in caught.value.where


def test_another_prompt_forgets_the_state_after_it_but_not_what_was_learned():
    system = tiny_system()
    kept = Voice.from_audio(system, recording(), WORDS, name="me").with_state(system)
    other = kept.adapted("fast")
    assert kept.state is not None and kept.model and (other.state, other.model) == (None, "")
    start = {name: part + 1 for name, part in system.model.backbone.init_state(1).items()}
    learned = Voice.from_start(system, start, name="style")
    other = learned.adapted("fast")
    assert other.start is learned.start and other.model == learned.model != ""


def test_a_state_of_another_model_is_refused(tmp_path):
    voice = Voice.from_audio(tiny_system(), recording(), WORDS, name="me")
    other = tiny_system(seed=1)
    text_to_speech.say(other, "We go.", voice)
    with pytest.raises(CheckpointError, match="another model"):
        text_to_speech.say(other, "We go.", voice.with_state(tiny_system()))


@pytest.mark.parametrize("field, value", [("lookahead_words", 2), ("form", "unistream")])
def test_a_state_of_another_layout_is_refused(field, value):
    system = tiny_system()
    kept = Voice.from_audio(system, recording(), WORDS, name="me").with_state(system)
    text_to_speech.say(tiny_system(), "We go.", kept)
    other = tiny_system(**{field: value})
    assert fingerprint(other.model) == fingerprint(system.model)
    with pytest.raises(CheckpointError, match="another model"):
        text_to_speech.say(other, "We go.", kept)


def test_codes_of_another_codec_are_refused():
    voice = Voice.from_audio(tiny_system(), recording(), WORDS)
    other = tiny_system()
    torch.nn.init.constant_(other.speech_tokenizer.scale, 40.0)
    with pytest.raises(CheckpointError, match="another codec"):
        text_to_speech.say(other, "We go.", voice)


def test_ids_of_another_tokenizer_are_refused():
    voice = Voice.from_audio(tiny_system(), recording(), WORDS)
    other = tiny_system()
    other.config["tokenizer"]["name"] = "phonemes"
    with pytest.raises(CheckpointError, match="tokenizer 'letters'"):
        text_to_speech.say(other, "We go.", voice)


def test_recordings_that_make_no_voice():
    system = tiny_system()
    with pytest.raises(UsageError, match="31 seconds"):
        Voice.from_audio(system, recording(seconds=31), WORDS)
    with pytest.raises(UsageError, match="nothing that can be spoken"):
        Voice.from_audio(system, recording(), "?!")
    with pytest.raises(UsageError, match="no such audio file"):
        Voice.from_audio(system, "missing.wav", WORDS)
    with pytest.raises(DataError, match="not numbers"):
        Voice.from_audio(system, Audio(torch.full((24_000,), torch.nan), 24_000), WORDS)


def test_a_recording_is_no_voice_by_itself():
    with pytest.raises(UsageError) as caught:
        text_to_speech.say(tiny_system(), "We go.", "me.wav")
    assert caught.value.where == "me.wav" and "Voice.from_audio" in caught.value.do


def test_files_are_not_replaced(tmp_path):
    voice = Voice(name="me")
    voice.save(tmp_path / "me.yaml")
    with pytest.raises(UsageError, match="exists already"):
        voice.save(tmp_path / "me.yaml")
    voice.save(tmp_path / "me.yaml", overwrite=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_broken_files_are_refused(tmp_path):
    path = Voice(name="me").save(tmp_path / "me.yaml")
    path.write_text("name: me\ncolour: blue\n")
    with pytest.raises(CheckpointError, match="colour"):
        Voice.load(path)
    for text in ("name: [me\n", "me", "- me\n"):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            Voice.load(path)
        assert str(path) in caught.value.where
    with pytest.raises(UnknownName, match="no voice 'nobody'"):
        Voice.load("nobody")


def test_find():
    assert find(None) == Voice()
    voice = Voice(name="me")
    assert find(voice) is voice


def test_a_file_and_a_bundled_name_come_before_those_of_a_release(tmp_path, monkeypatch):
    other = Voice(name="other", text=(9,), speech=((9,),))
    names = {"joe": other, str(tmp_path / "me.yaml"): other, "theirs": other}
    monkeypatch.setattr(voices, "_system_voices", lambda system: names)
    assert find("theirs", tiny_system()) is other
    voice = Voice(name="me", text=(1, 2), speech=((3,), (4,)))
    voice.save(tmp_path / "me.yaml")
    assert find(tmp_path / "me.yaml", tiny_system()).speech == voice.speech
    assert find("joe", tiny_system()).speech == Voice.load("joe").speech
    with pytest.raises(UnknownName, match="no voice 'nobody'"):
        find("nobody", tiny_system())


def test_fingerprints_tell_models_apart():
    first, second = tiny_system().model, tiny_system().model
    assert fingerprint(first) == fingerprint(second)
    with torch.no_grad():
        second.head.out.bias[3] += 1e-6
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first.bfloat16()) != fingerprint(second)


def saved(folder):
    """A voice of the tiny system in a file, and its tensors."""
    voice = Voice.from_audio(tiny_system(), recording(), WORDS, word_ends=[6, 12, 20, 29])
    path = replace(voice, heard={"speaker": torch.ones(4)}).save(folder / "v.yaml")
    return path, read_tensors(path.with_suffix(".safetensors"))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("text", lambda t: t[0], "'text' has 0 axes"),
        ("speech", lambda t: t[0, 0], "'speech' has 0 axes"),
        ("speech", lambda t: t.flatten(), "is not .frames, codebooks"),
        ("speech", lambda t: t[:, :0], "is not .frames, codebooks"),
        ("speech", lambda t: t.repeat(1, 2), "not of 1 codebooks"),
        ("speech", lambda t: t * 0 - 1, "holds -1"),
        ("speech", lambda t: t * 0 + 50, "codes are 50 to 50, of 50"),
        ("speech", lambda t: t + 0.5, "torch.float32 and not whole numbers"),
        ("text", lambda t: t * 0 + 5000, "up to 5000"),
        ("word_ends", lambda t: t.flip(0), "do not rise"),
        ("word_ends", lambda t: t + 100, "do not rise"),
        ("heard.speaker", lambda t: t * float("nan"), "not numbers"),
        ("heard.speaker", lambda t: t * 1e30, "beyond 1e.08"),
        ("odd", lambda t: torch.zeros(1), "means nothing"),
        ("text", None, "no tensor 'text'"),
    ],
)
def test_a_damaged_voice_is_refused(tmp_path, name, change, said):
    path, tensors = saved(tmp_path)
    text_to_speech.say(tiny_system(), "We go.", Voice.load(path))
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name))
    write_tensors(path.with_suffix(".safetensors"), tensors)
    with pytest.raises(CheckpointError, match=said):
        text_to_speech.say(tiny_system(), "We go.", Voice.load(path))


def test_keys_of_a_voice_are_texts(tmp_path):
    path, _ = saved(tmp_path)
    path.write_text("name: [a, b]\n")
    with pytest.raises(CheckpointError, match="'name' is not a text"):
        Voice.load(path)


@pytest.mark.parametrize("value", [float("nan"), 40.0])
def test_noise_of_a_decoder_is_never_handed_on(monkeypatch, value):
    system = tiny_system()
    system.decoder.start()
    noise = type(system.decoder.streams[0])
    monkeypatch.setattr(noise, "sound", lambda self, codes: torch.full((960 * len(codes),), value))
    with pytest.raises(WishboneError, match="The decoder made"):
        text_to_speech.say(system, "We go there now.")
