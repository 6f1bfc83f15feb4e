"""The pitch tracker: the period of what is heard, whether or not its fundamental is there."""

import numpy as np
import pytest
import torch

from wishbone.core.audio.files import read
from wishbone.core.audio.pitch import _best_path, semitones_off, track
from wishbone.core.evaluate.measure.speech import codec_of, own_reference

RATE, HOP = 24_000, 240


def voice(hertz, harmonics, seconds=1.0):
    """[S]: the harmonics of a pitch that may change over time, each half as loud as the one below
    it an octave down, as in a voice."""
    hertz = np.broadcast_to(hertz, int(RATE * seconds))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    return 0.1 * sum(np.cos(k * phase + k * k) / k for k in harmonics)


@pytest.mark.parametrize("hertz", [75.0, 100.0, 180.0, 330.0, 450.0])
@pytest.mark.parametrize("lowest", [1, 2, 3])
def test_the_pitch_is_heard_without_the_fundamental(hertz, lowest):
    """A recording without its lowest harmonics was once tracked an octave too high."""
    pitch, voiced = track(voice(hertz, range(lowest, 12)), RATE, HOP)
    inner = slice(5, -5)
    assert voiced[inner].all()
    assert np.abs(pitch[inner] / hertz - 1).max() < 0.01


def test_every_second_harmonic_alone_is_an_octave_higher():
    """The other way round: what truly repeats twice as often is not called the lower octave."""
    pitch, voiced = track(voice(100.0, range(2, 13, 2)), RATE, HOP)
    assert voiced[5:-5].all() and np.abs(pitch[5:-5] / 200.0 - 1).max() < 0.01


def test_a_glide_is_followed_where_each_hop_ends():
    hertz = np.geomspace(90.0, 180.0, RATE)
    pitch, _ = track(voice(hertz, range(1, 15)), RATE, HOP)
    ends = hertz[np.arange(HOP, RATE + 1, HOP) - 1]
    assert np.abs(pitch[5:-5] / ends[5:-5] - 1).max() < 0.02


def test_one_frame_that_fits_the_octave_better_does_not_jump():
    hertz = np.tile([0.0, 100.0, 200.0], (3, 1))
    strength = np.array([[0.5, 0.9, 0.8], [0.5, 0.8, 0.9], [0.5, 0.9, 0.8]])
    assert _best_path(hertz, strength).tolist() == [1, 1, 1]
    strength[1] = [1.2, 0.8, 0.8]  # nor does it lose its voice for a little more noise
    assert _best_path(hertz, strength)[1] == 0
    strength[1, 0] = 1.0
    assert _best_path(hertz, strength)[1] == 1


def test_noise_and_silence_are_no_voice():
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    pitch, voiced = track(noise, RATE, HOP)
    assert voiced.mean() < 0.1 and len(pitch) == 100
    pitch, voiced = track(np.zeros(RATE), RATE, HOP)
    assert not voiced.any() and np.all(pitch == 120.0)


def test_the_pitch_goes_on_in_a_line_where_there_is_no_voice():
    noise = 0.02 * np.random.default_rng(0).standard_normal(RATE // 2)
    parts = [voice(100.0, range(1, 12), 0.5), noise, voice(150.0, range(1, 12), 0.5)]
    pitch, voiced = track(np.concatenate(parts), RATE, HOP)
    gap = np.flatnonzero(~voiced[5:-5]) + 5
    assert 35 <= len(gap) <= 55
    assert np.all(np.diff(pitch[gap[0] : gap[-1]]) >= 0)
    assert 95 < pitch[gap[0]] < 125 < pitch[gap[-1]] < 155


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (239, 0), (240, 1), (1199, 4), (700_000, 2916)]
)
def test_there_is_a_pitch_for_every_whole_hop(samples, frames):
    """Also in recordings longer than what is worked on at a time."""
    audio = voice(100.0, range(1, 5), 30.0)[:samples]
    pitch, voiced = track(audio, RATE, HOP)
    assert len(pitch) == len(voiced) == frames and np.isfinite(pitch).all()
    if frames > 1000:
        assert np.abs(pitch[5:-5] / 100.0 - 1).max() < 0.01


def test_the_bundled_codec_speaks_at_the_pitch_of_the_recording():
    """Words and predicted quality stayed fair while the teacher was copied an octave too high."""
    codec, original = codec_of("quickstart"), read(own_reference() / "000.ogg").samples
    copy = codec.decoder.decode(
        codec.speech_tokenizer.encode(original),
        prompt=codec.decoder.hear(original, torch.zeros(0)),
    )
    off = semitones_off(copy.numpy(), original.numpy(), RATE)
    assert len(off) > 0.3 * len(original) / HOP
    assert np.median(off) < 3.0 and (off > 6.0).mean() < 0.1  # an octave is 12
