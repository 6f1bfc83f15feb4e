"""Recordings of voices: refused without speech, brought to one level, held against their text."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from tiny_system import Loudness, tiny_system

from wishbone.core.audio import recording
from wishbone.core.audio.files import Audio
from wishbone.core.cli.main import main
from wishbone.core.contract.errors import DataError, UsageError
from wishbone.core.evaluate.measure.speech import own_reference
from wishbone.core.speak.voice import Voice, find
from wishbone.core.speak.voice_conversion import revoice

RATE = 24_000
WORDS = "one two three four"


def noise(kind, seconds=3.0, rate=RATE):
    draws = np.random.default_rng(0).standard_normal(round(seconds * rate))
    if kind == "white":
        return draws
    power = 1 if kind == "brown" else 0.5
    spectrum = np.fft.rfft(draws) / np.maximum(np.arange(len(draws) // 2 + 1), 20) ** power
    return np.fft.irfft(spectrum, len(draws))


def sound(samples, peak):
    samples = np.asarray(samples, np.float32)
    return Audio(torch.from_numpy(samples * np.float32(peak / np.abs(samples).max())), RATE)


def speech(number):
    path = sorted(own_reference().glob("*.ogg"))[number]
    samples, rate = soundfile.read(path, dtype="float32")
    return Audio(torch.from_numpy(samples), rate)


@pytest.mark.parametrize("peak", [0.001, 0.05, 0.9])
@pytest.mark.parametrize("kind", ["white", "pink", "brown"])
def test_noise_is_no_voice(kind, peak):
    with pytest.raises(DataError, match="no speech"):
        recording.check_speech(sound(noise(kind), peak), "it")


@pytest.mark.parametrize("samples", [torch.zeros(48_000), torch.full((48_000,), 0.4)])
def test_silence_is_no_voice(samples):
    with pytest.raises(DataError, match="silent"):
        Voice.from_audio(tiny_system(), Audio(samples, RATE), WORDS)


@pytest.mark.parametrize("number", range(0, 60, 6))
def test_speech_is_a_voice_loud_soft_and_in_noise(number):
    audio = speech(number)
    for scale in (1.0, 0.01):
        recording.check_speech(replace(audio, samples=scale * audio.samples), "it")
    hiss = torch.randn(len(audio.samples), generator=torch.Generator().manual_seed(1))
    recording.check_speech(replace(audio, samples=audio.samples + 0.02 * hiss), "it")


def test_a_whisper_is_a_voice():
    # noise in syllables, without any pitch
    time = np.arange(3 * RATE) / RATE
    syllables = np.maximum(np.sin(2 * np.pi * 4 * time), 0.01) ** 2
    recording.check_speech(sound(noise("white") * syllables, 0.2), "it")


@pytest.mark.parametrize("scale, shift", [(0.03, 0.0), (5.0, 0.0), (1.0, 0.4), (8.0, -0.2)])
def test_level_and_dc_leave_no_trace(scale, shift):
    audio = speech(3)
    plain = recording.at_level(audio, 0.06).samples
    changed = recording.at_level(replace(audio, samples=scale * audio.samples + shift), 0.06)
    assert torch.allclose(changed.samples, plain, atol=1e-5)
    again = recording.at_level(Audio(plain, audio.sample_rate), 0.06).samples
    assert torch.allclose(again, plain, atol=1e-6)


def test_a_codec_without_a_level_gets_the_recording_as_it_is(monkeypatch):
    audio = speech(0)
    assert recording.at_level(audio, None) is audio
    codes = Voice.from_audio(tiny_system(), audio, WORDS).speech
    louder = replace(audio, samples=0.5 * audio.samples)
    assert Voice.from_audio(tiny_system(), louder, WORDS).speech != codes
    monkeypatch.setattr(Loudness, "level", 0.06)
    voices = [Voice.from_audio(tiny_system(), one, WORDS).speech for one in (audio, louder)]
    assert voices[0] == voices[1]


def test_voice_conversion_does_not_hear_the_level(monkeypatch):
    system, audio = tiny_system(), speech(0)
    monkeypatch.setattr(Loudness, "level", 0.06)
    voice = Voice(speaker=torch.zeros(4))
    louder = replace(audio, samples=0.3 * audio.samples + 0.1)
    results = [torch.cat(list(revoice(system, one, voice))) for one in (audio, louder)]
    assert torch.equal(*results)


def test_a_transcript_of_another_length_is_warned_of():
    system, audio = tiny_system(codes_per_id=1.6), speech(0)
    seconds = len(audio.samples) / audio.sample_rate
    ids = round(seconds * 25 / 1.6)
    fits = "ab " * (ids // 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Voice.from_audio(system, audio, fits)
        Voice.from_audio(tiny_system(), audio, "hi")
    with pytest.warns(UserWarning, match="said wrongly"):
        Voice.from_audio(system, audio, "hi")
    with pytest.warns(UserWarning, match="left out"):
        Voice.from_audio(system, audio, fits * 4)


@pytest.mark.parametrize("ending, container, coding", [
    (".aiff", "AIFF", "PCM_16"), (".opus", "OGG", "OPUS"), (".OGG", "OGG", "VORBIS"),
])  # fmt: skip
def test_more_formats_are_recordings(tmp_path, ending, container, coding):
    path = tmp_path / f"me{ending}"
    soundfile.write(path, speech(0).samples, speech(0).sample_rate, coding, format=container)
    assert len(Voice.from_audio(tiny_system(), path, WORDS).speech) > 20
    with pytest.raises(UsageError, match="recording with its transcript"):
        find(path)


@pytest.mark.parametrize("more", [[], ["--transcript", "Hello."]])
def test_what_cannot_be_read_says_so(tmp_path, capsys, more):
    (tmp_path / "me.m4a").write_bytes(b"\0\0\0\x20ftypM4A \xde")
    words = ["say", "Hello.", "-o", str(tmp_path / "x.wav"), "--voice", str(tmp_path / "me.m4a")]
    assert main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert ".m4a cannot be read" in error and "ffmpeg -i 'me.m4a' 'me.wav'" in error
