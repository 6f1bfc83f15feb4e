"""The folder of voices by itself: recordings at the borders of what is taken, names, and files."""

import io
import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import serving_toys as toys
import soundfile
import torch
from tiny_system import tiny_system

from wishbone.core.contract.errors import CheckpointError
from wishbone.core.serve import voice_folder
from wishbone.core.serve.refusal import Refusal
from wishbone.core.serve.settings import Limits
from wishbone.core.serve.voice_folder import VoiceFolder, check_transcript, decode
from wishbone.core.speak.voice import Voice

RATE = 16_000


def noise(samples, level=0.3, channels=1):
    values = np.random.default_rng(0).uniform(-level, level, (samples, channels))
    values[0] = level
    return values


def speech():
    """A second of a tone that comes and goes, as a recording of a voice does."""
    time = np.arange(24_000) / 24_000
    return 0.4 * np.sin(2 * np.pi * 220 * time) * (1 + np.sin(2 * np.pi * 3 * time)) / 2


def file_of(samples, rate=RATE, form="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def refusal_of(recording):
    with pytest.raises(Refusal) as caught:
        decode(recording)
    assert (caught.value.status, caught.value.param) == (400, "audio")
    return caught.value.message


@pytest.fixture
def voices(tmp_path):
    return VoiceFolder(tmp_path / "voices", Limits(voices=3))


@pytest.fixture(scope="module")
def system():
    return tiny_system()


def test_the_shortest_and_the_longest_recording_are_taken_and_a_sample_beyond_is_not():
    for samples in (RATE // 2, 30 * RATE):
        assert len(decode(file_of(noise(samples))).samples) == samples
    assert "shorter than 0.5 s" in refusal_of(file_of(noise(RATE // 2 - 1)))
    assert "30 s long; 30 fit" in refusal_of(file_of(noise(30 * RATE + 1)))


def test_a_recording_that_says_no_length_is_decoded_for_31_seconds_at_most(monkeypatch):
    """Such as a stream: its length is a number too large for any file."""
    asked, real = [], soundfile.SoundFile

    class Unknown(real):
        frames = 2**62

        def read(self, frames, **options):
            asked.append(frames)
            return noise(frames).astype("float32"), None

    monkeypatch.setattr(voice_folder.soundfile, "SoundFile", Unknown)
    Unknown.read = lambda self, frames, **options: (asked.append(frames), noise(RATE))[1]
    assert len(decode(file_of(noise(RATE))).samples) == RATE
    assert asked == [31 * RATE]
    Unknown.frames = 2**62 - 1
    assert "s long" in refusal_of(file_of(noise(RATE)))
    Unknown.frames = 2**62
    Unknown.read = lambda self, frames, **options: noise(31 * RATE)
    assert "longer than 30 s" in refusal_of(file_of(noise(RATE)))


@pytest.mark.parametrize(
    ("rate", "right"), [(7_999, False), (8_000, True), (192_000, True), (192_001, False)]
)
def test_rates_have_borders(rate, right):
    recording = file_of(noise(rate), rate)
    if right:
        assert decode(recording).sample_rate == rate
    else:
        assert "8000 to 192000 work" in refusal_of(recording)


def test_channels_are_averaged_and_eight_are_the_most():
    recording = noise(RATE, channels=8)
    mixed = decode(file_of(recording, subtype="FLOAT")).samples
    assert mixed.shape == (RATE,)
    assert np.allclose(mixed.numpy(), recording.mean(1), atol=1e-6)
    assert "9 channels" in refusal_of(file_of(noise(RATE, channels=9)))


@pytest.mark.parametrize(("level", "right"), [(0.0009, False), (0.0011, True), (-0.0011, True)])
def test_a_recording_below_a_thousandth_is_silent(level, right):
    samples = np.zeros((RATE, 1))
    samples[5] = level
    if right:
        assert decode(file_of(samples, subtype="FLOAT"))
    else:
        assert "silent" in refusal_of(file_of(samples, subtype="FLOAT"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(value):
    samples = noise(RATE)
    samples[7] = value
    assert "no numbers" in refusal_of(file_of(samples, subtype="FLOAT"))


@pytest.mark.parametrize(
    "error", [soundfile.SoundFileRuntimeError("x"), ValueError(), OverflowError(), MemoryError()]
)
def test_whatever_a_decoder_stumbles_over_is_a_refusal(monkeypatch, error):
    def stumble(self, *arguments, **options):
        raise error

    monkeypatch.setattr(voice_folder.soundfile.SoundFile, "read", stumble)
    assert "cannot be decoded" in refusal_of(file_of(noise(RATE)))


@pytest.mark.parametrize(
    ("first", "known"),
    [
        (b"\xff\xe0", True), (b"\xff\xfb", True), (b"\xff\xff", True), (b"\xff\xdf", False),
        (b"\xff\x1f", False), (b"\xfe\xe0", False), (b"\xff", False), (b"ID3", True),
        (b"RIFF", True), (b"fLaC", True), (b"OggS", True), (b"oggs", False), (b"x", False),
    ],
)  # fmt: skip
def test_the_first_bytes_tell_what_a_recording_is(first, known):
    expected = "cannot be decoded" if known else "none of WAV, FLAC, OGG, MP3"
    assert expected in refusal_of(first)
    assert expected in refusal_of(first + bytes(3 if first == b"\xff" else 0) + b"\xe0")
    assert refusal_of(b"") == "audio is empty."


def test_a_transcript_is_one_line_of_at_most_a_thousand_characters():
    assert check_transcript("  one \n two\t3 ") == "one two 3"
    assert check_transcript("5") == "5" and len(check_transcript(1000 * "x")) == 1000
    for text, what in (("!? -", "no words"), ("a\x00b", "no words"), (1001 * "x", "1001")):
        with pytest.raises(Refusal, match=what) as caught:
            check_transcript(text)
        assert (caught.value.status, caught.value.param) == (400, "transcript")


def test_a_voice_is_made_told_and_removed_with_both_of_its_files(voices, system):
    recording = file_of(speech(), 24_000)
    voice = voices.add("me.1", recording, " what I  say ", system)
    assert voice.transcript == "what I say"
    assert sorted(path.name for path in voices.folder.iterdir()) == [
        "me.1.safetensors", "me.1.yaml",
    ]  # fmt: skip
    told = voices.describe("me.1", 8.0)
    assert told["seconds"] == round(len(voice.speech) / 8.0, 2) and told["bundled"] is False
    assert (told["object"], told["id"], told["name"]) == ("voice", "me.1", "me.1")
    assert voices.describe("me.1", 7.0)["seconds"] == round(len(voice.speech) / 7.0, 2)
    assert voices.names()[-1] == "me.1" and voices.describe("kathleen", 25.0)["bundled"] is True
    assert voices.read("me.1") is voices.read("me.1")
    with pytest.raises(FrozenInstanceError):
        voices._cached["me.1"].stamp = (0, 0)
    voices.remove("me.1")
    assert list(voices.folder.iterdir()) == [] and "me.1" not in voices.names()
    assert "me.1" not in voices._cached
    with pytest.raises(Refusal) as caught:
        voices.remove("me.1")
    assert caught.value.status == 404


def test_a_voice_without_its_second_file_can_be_removed(voices, system):
    voices.add("me", file_of(speech(), 24_000), "what I say", system)
    (voices.folder / "me.safetensors").unlink()
    voices.remove("me")
    assert list(voices.folder.iterdir()) == []


def test_names_are_listed_in_order_without_those_that_are_none(voices):
    voices.folder.mkdir()
    for name in ("b", "a", "default", "kathleen", ".x", "a b", "-c"):
        (voices.folder / f"{name}.yaml").write_text("")
    (voices.folder / "d.txt").write_text("")
    bundled = VoiceFolder(voices.folder / "nothing", Limits()).names()
    assert voices.names() == [*bundled, "a", "b"] and "kathleen" in bundled
    with pytest.raises(Refusal, match="There is no voice 'zz'") as caught:
        voices.read("zz")
    assert (caught.value.status, caught.value.code) == (404, "voice_not_found")


def test_an_unknown_name_is_answered_with_the_first_twenty(voices):
    voices.folder.mkdir()
    for number in range(30):
        (voices.folder / f"v{number:02}.yaml").write_text("")
    names = voices.names()
    with pytest.raises(Refusal) as caught:
        voices.read("y" * 70)
    message = caught.value.message
    assert f"'{'y' * 64}'" in message and message.endswith(f"default, {', '.join(names[:20])}.")
    with pytest.raises(Refusal, match="stays") as caught:
        voices.remove("kathleen")
    assert (caught.value.status, caught.value.param) == (400, "name")


@pytest.mark.parametrize(
    ("name", "status"),
    [("x" * 64, None), ("x" * 65, 400), ("", 400), ("default", 409), ("kathleen", 409), ("a", 409)],
)
def test_a_new_name_is_free_and_short(voices, name, status):
    voices.folder.mkdir()
    (voices.folder / "a.yaml").write_text("")
    if status is None:
        assert voices.check_name(name) == voices.folder / f"{name}.yaml"
        return
    with pytest.raises(Refusal) as caught:
        voices.check_name(name)
    assert (caught.value.status, caught.value.param) == (status, "name")
    assert status == 400 or caught.value.code == "name_taken"


def test_the_last_place_of_the_folder_is_one(voices):
    voices.folder.mkdir()
    for name in "ab":
        (voices.folder / f"{name}.yaml").write_text("")
    assert voices.check_name("c")
    (voices.folder / "c.yaml").write_text("")
    with pytest.raises(Refusal, match="holds 3 voices") as caught:
        voices.check_name("d")
    assert (caught.value.status, caught.value.code) == (409, "folder_full")


def test_a_folder_that_cannot_be_written_is_an_error_of_the_server(voices, system, monkeypatch):
    def fail(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Voice, "save", fail)
    with pytest.raises(Refusal) as caught:
        voices.add("me", file_of(speech(), 24_000), "what I say", system)
    assert (caught.value.status, caught.value.code) == (500, "storage")


def test_a_recording_that_the_codec_refuses_is_told_so(voices, system, monkeypatch):
    def refuse(*arguments, **options):
        assert not torch.is_grad_enabled() and torch.is_inference_mode_enabled()
        raise CheckpointError("It cannot be encoded.", "here", "Record it again.")

    monkeypatch.setattr(Voice, "from_audio", refuse)
    with pytest.raises(Refusal, match="It cannot be encoded. Record it again.") as caught:
        voices.add("me", file_of(speech(), 24_000), "what I say", system)
    assert (caught.value.status, caught.value.param) == (400, "audio")


def test_a_voice_file_that_is_none_is_left_out_of_the_list(tmp_path):
    with toys.closing(toys.make_service(tmp_path)) as service, toys.client_of(service) as client:
        service.voices.folder.mkdir()
        (service.voices.folder / "broken.yaml").write_text("colour: red\n")
        listed = client.get("/v1/audio/voices").json()
        names = [voice["name"] for voice in listed["data"]]
        assert "broken" not in names and "kathleen" in names and listed["object"] == "list"
        answer = client.get("/v1/audio/voices/broken")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "voice")
        body = {"model": "tiny", "input": "Hi.", "voice": "broken"}
        spoken = client.post("/v1/audio/speech", json=body).json()["error"]
        assert spoken["param"] == "voice" and json.dumps(spoken)


def test_a_voice_names_the_systems_that_can_speak_with_it(tmp_path):
    arms = [toys.arm("left"), toys.arm("right", seed=1)]
    with toys.closing(toys.make_service(tmp_path, arms)) as service:
        with toys.client_of(service) as client:
            data = {"name": "me", "transcript": "what I say", "model": "right"}
            files = {"audio": ("me.wav", file_of(speech(), 24_000), "audio/wav")}
            made = client.post("/v1/audio/voices", data=data, files=files)
            assert made.status_code == 201
            voice = service.voices.read("me")
            fitting = [arm.name for arm in arms if arm.fits(voice)]
            assert made.json()["models"] == fitting and "right" in fitting
            assert client.get("/v1/audio/voices/kathleen").json()["models"] == [
                arm.name for arm in arms if arm.fits(service.voices.read("kathleen"))
            ]
