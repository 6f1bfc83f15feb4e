"""Metrics that describe how something is said: pace, pauses, pitch, melody, slips."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

from wishbone.core.config.compose import Config
from wishbone.core.contract.extensions.metric import Clip, MetricInfo
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Arm, Plan, Prompt
from wishbone.core.evaluate.report import wording
from wishbone.core.evaluate.statistics import compare, metrics
from wishbone.plugins.metrics import melody, pace, slips
from wishbone.plugins.metrics.distillmos import DistillMOS

AB = "install the extra: pip install wishbone-tts[ab]"
RATE = 16_000


def plan(prompts):
    return Plan(
        name="test", about="", seeds=1, seed=1, vary=[], metrics={}, voice=None, reference=None,
        arms=[Arm(key, key, Config({})) for key in ("old", "new")], quick=False,
        prompts=[Prompt(f"{i:03d}", f"sentence {i}") for i in range(prompts)],
    )  # fmt: skip


def voice(hertz):
    """Audio of a buzzing voice with the pitch ``hertz`` [S]."""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 20))).astype("float32")


def clip(audio, text="four words of text", key="000"):
    return Clip(key, text, np.asarray(audio, "float32"), RATE)


def test_pace_and_pauses_leave_out_what_is_around_the_speech():
    sound, silence = voice(np.full(RATE, 120.0)), np.zeros(RATE, "float32")
    spoken = clip(np.concatenate([silence, sound, silence, sound, silence]))
    assert pace.Pace(None).score(spoken)["pace"] == pytest.approx(4 / 3, rel=0.02)
    assert pace.Pauses(None).score(spoken)["pauses"] == pytest.approx(100 / 3, rel=0.03)
    closure = clip(np.concatenate([sound, silence[: RATE // 10], sound]))
    assert pace.Pauses(None).score(closure)["pauses"] == 0


def test_pitch_and_its_spread_are_those_of_the_voice():
    steps = clip(voice(np.repeat([100.0, 200.0], RATE)))
    assert melody.Pitch(None).score(clip(voice(np.full(RATE, 150.0))))["pitch"] == pytest.approx(
        150, rel=0.01
    )
    # one octave up and down around the middle: six semitones to both sides
    assert melody.PitchSpread(None).score(steps)["pitch_spread"] == pytest.approx(6, abs=0.3)
    noise = np.random.default_rng(0).normal(0, 0.1, RATE)
    assert melody.Pitch(None).score(clip(noise)) == {}


def test_the_melody_is_compared_without_height_and_pace():
    pytest.importorskip("librosa", reason=AB)
    metric = melody.Prosody(None)

    def vowels(hertz):
        audio, length = voice(hertz), len(hertz) // 10
        for number in range(10):
            band = [300 + 250 * (number * 7 % 10), 900 + 250 * (number * 7 % 10)]
            part = audio[number * length : (number + 1) * length]
            part[:] = signal.sosfilt(signal.butter(2, band, "band", fs=RATE, output="sos"), part)
        return audio + np.random.default_rng(0).normal(0, 1e-4, len(audio)).astype("f4")

    rise = np.linspace(100, 200, 2 * RATE)
    metric.set_reference([clip(vowels(rise))])
    slower = np.linspace(120, 240, 3 * RATE)
    same = metric.score(clip(vowels(slower)))["prosody"]
    flat = metric.score(clip(vowels(np.full(2 * RATE, 150.0))))["prosody"]
    assert same < 1 < 2 < flat
    assert metric.score(clip(voice(rise), key="other")) == {}


def test_a_question_that_falls_where_the_reference_rises_is_far_from_it():
    metric = melody.FinalPitch(None)
    level = np.full(2 * RATE, 100.0)
    ending = slice(-RATE // 3, None)
    rises, falls, high = level.copy(), level.copy(), np.full(3 * RATE, 200.0)
    rises[ending], falls[ending], high[ending] = 150.0, 75.0, 300.0
    metric.set_reference([clip(voice(rises))])
    # a fifth up, whatever the voice's height and pace; two fifths less a tone, an octave, down
    assert metric.score(clip(voice(high)))["final_pitch"] == pytest.approx(0.0, abs=0.2)
    assert metric.score(clip(voice(level)))["final_pitch"] == pytest.approx(7.02, abs=0.2)
    assert metric.score(clip(voice(falls)))["final_pitch"] == pytest.approx(12.0, abs=0.2)
    noise = np.random.default_rng(0).normal(0, 0.1, RATE)
    assert metric.score(clip(noise)) == {}
    assert metric.score(clip(voice(rises), key="other")) == {}


def test_gaps_and_repetitions_are_told_from_single_slips():
    for package in ("jiwer", "whisper_normalizer"):
        pytest.importorskip(package, reason=AB)
    text = "the old house stood on a hill above the sea"
    assert slips.slips(text, text) == slips.Slips(0, 0, 10)
    assert slips.slips(text, "the old house stood above the sea").skipped == 3
    assert slips.slips(text, "the old house stood on hill above the sea").skipped == 0
    again = "the old house the old house stood on a hill above the sea"
    assert slips.slips(text, again).repeated == 3
    assert slips.slips(text, text + " today").repeated == 0
    assert slips.slips("", "some words") == slips.Slips(0, 0, 0)


def test_distillmos_is_that_of_its_package(capsys):
    distillmos = pytest.importorskip("distillmos", reason=AB)
    torch = pytest.importorskip("torch")
    spoken = clip(voice(np.full(2 * RATE, 120.0)))
    score = DistillMOS(None).score(spoken)["distillmos"]
    assert capsys.readouterr().out == ""
    model = distillmos.ConvTransformerSQAModel().eval()
    with torch.no_grad():
        assert score == pytest.approx(float(model(torch.from_numpy(spoken.audio)[None])), abs=1e-5)


def test_what_describes_is_never_better_or_equivalent(tmp_path):
    given = replace(plan(prompts=12), metrics=metrics.choose({}, ["pace"]))
    given = replace(given, metrics={"pace": given.metrics["pace"]})
    items = Items(tmp_path / "items.jsonl")
    noise = np.random.default_rng(0).normal(3, 0.1, 12)
    for arm, more in (("old", 0.0), ("new", 1.0)):
        for number, prompt in enumerate(given.prompts):
            row = {"text": prompt.text, "failure": "", "pace": noise[number] + more}
            items.add(arm, prompt.key, 0, row)
    (row,) = compare.analyse(items, given).comparisons
    assert row.outcome.difference == pytest.approx(1)
    assert row.outcome.verdict not in ("better", "worse", "equivalent")
    assert (row.outcome.margin, row.outcome.in_margins) == (None, (None,) * 3)
    assert wording.margin(metrics.facts(pace.Pace.info)) == "none"
    # an A/B file may give it one
    assert metrics.choose({"pace": 0.2}, ["pace"])["pace"].margin == 0.2
    with pytest.raises(ValueError, match="neither"):
        MetricInfo("x", "x", "x", "bigger", 1.0, "x")
