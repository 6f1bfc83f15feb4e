"""Loudness by the standard's own numbers, and clips made equally loud."""

import numpy as np
import pytest
from listening_toys import tone

from wishbone.core.evaluate.listening import loudness


def test_the_filters_are_those_of_the_standard():
    # ITU-R BS.1770-4, tables 1 and 2
    (b, a), (high_b, high_a) = loudness.filters(48000)
    assert b == pytest.approx([1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-7)
    assert a == pytest.approx([1.0, -1.69065929318241, 0.73248077421585], abs=1e-7)
    assert high_b == [1.0, -2.0, 1.0]
    assert high_a == pytest.approx([1.0, -1.99004745483398, 0.99007225036621], abs=1e-7)


@pytest.mark.parametrize("rate", [16000, 24000, 48000])
def test_a_full_tone_of_997_hertz_has_the_standards_loudness(rate):
    time = np.arange(3 * rate) / rate
    audio = np.sin(2 * np.pi * 997 * time)
    assert loudness.loudness(audio, rate) == pytest.approx(-3.01, abs=0.05)
    assert loudness.loudness(audio / 10, rate) == pytest.approx(-23.01, abs=0.05)


def test_silence_does_not_count():
    speech = tone(997, seconds=2)
    padded = np.concatenate([speech, np.zeros(16000 * 3, np.float32)])
    assert loudness.loudness(padded, 16000) == pytest.approx(
        loudness.loudness(speech, 16000), abs=0.6
    )
    assert loudness.loudness(np.zeros(16000), 16000) == -float("inf")
    assert loudness.loudness(np.zeros(0), 16000) == -float("inf")


def test_another_meter_agrees():
    meter = pytest.importorskip("pyloudnorm", reason="the package pyloudnorm, to compare with")
    random = np.random.default_rng(0)
    audio = random.normal(size=48000 * 4) * np.repeat(random.uniform(0.001, 0.2, 40), 4800)
    expected = meter.Meter(48000).integrated_loudness(audio)
    assert loudness.loudness(audio, 48000) == pytest.approx(expected, abs=0.1)


def test_clips_are_equally_loud_and_none_clips():
    clips = {"soft": tone(400, level=0.01), "loud": tone(700, level=0.5)}
    equal, matched = loudness.match(clips, 16000)
    assert matched.target == -23.0 and matched.softer == []
    for clip in equal.values():
        assert loudness.loudness(clip, 16000) == pytest.approx(-23, abs=0.05)


def test_a_high_peak_makes_all_clips_softer_together():
    spike = tone(400, seconds=1, level=0.02)
    spike[5000] = 0.25
    equal, matched = loudness.match({"spike": spike, "other": tone(700, seconds=1)}, 16000)
    assert loudness.LOWEST < matched.target < -23 and matched.softer == []
    levels = [loudness.loudness(clip, 16000) for clip in equal.values()]
    assert levels[0] == pytest.approx(levels[1], abs=0.05)
    assert max(np.abs(clip).max() for clip in equal.values()) <= loudness.PEAK + 1e-6


def test_one_terrible_peak_softens_only_its_own_clip():
    spike = tone(400, seconds=1, level=0.001)
    spike[5000] = 0.9
    equal, matched = loudness.match({"spike": spike, "other": tone(700, seconds=1)}, 16000)
    assert matched.softer == ["spike"] and matched.target == loudness.LOWEST
    assert np.abs(equal["spike"]).max() <= loudness.PEAK + 1e-6


def test_a_silent_clip_stays_silent():
    equal, _ = loudness.match({"none": np.zeros(8000), "other": tone(700)}, 16000)
    assert not equal["none"].any()


def test_a_spoilt_clip_is_dull_and_noisy():
    clear = tone(3000, seconds=1)
    bad = loudness.degrade(clear + tone(300, seconds=1), 16000, seed=0)
    spectrum = np.abs(np.fft.rfft(bad))
    assert spectrum[3000] < spectrum[300] / 10
    assert np.abs(loudness.low_pass(clear, 16000, 1000))[2000:-2000].max() < 1e-3
    assert loudness.low_pass(clear, 16000, 7990) is clear
