"""Metrics of one clip: what a listener would have understood, and how failures count."""

import numpy as np
import pytest
import soundfile

from wishbone.core.contract.errors import ConfigError, MissingExtra, UsageError
from wishbone.core.contract.extensions import optional
from wishbone.core.contract.extensions.metric import Clip
from wishbone.core.evaluate.measure import clips, score
from wishbone.core.evaluate.statistics import metrics
from wishbone.plugins.metrics import word_errors
from wishbone.plugins.metrics.speaker_similarity import SpeakerSimilarity

AB = "install the extra: pip install wishbone-tts[ab]"


def tone(seconds=1.0, rate=16_000):
    return (0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype("float32")


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        (np.zeros(0, "float32"), "empty"),
        (tone(0.05), "empty"),
        (np.zeros(16_000, "float32"), "silent"),
        (np.full(16_000, np.nan, "float32"), "not finite"),
        (tone(30), "ran on"),
        (tone(2), ""),
    ],
)
def test_failures_are_named(audio, expected):
    assert clips.failure(audio, 16_000, "a short text") == expected


def test_word_errors_ignore_case_spelling_and_written_numbers():
    pytest.importorskip("whisper_normalizer", reason=AB)
    pytest.importorskip("jiwer", reason=AB)
    counted = word_errors.word_errors(
        "Good-night, Mister Holmes: twenty colours!", "good night mr holmes 20 colors"
    )
    assert counted.errors == 0
    wrong = word_errors.word_errors("one small step", "one small stop for me")
    assert (wrong.errors, wrong.words) == (3, 3)
    assert word_errors.word_errors("!?", "") == word_errors.WordErrors(0, 0)


def test_a_failed_clip_counts_as_worst_and_is_kept(monkeypatch):
    pytest.importorskip("whisper_normalizer", reason=AB)
    scorer = score.Scorer()
    for metric in scorer.metrics.values():
        # a failed clip must not be listened to
        monkeypatch.setattr(type(metric), "score", None)
    scorer.set_reference([Clip("0", "", tone(), 16_000)])
    row = scorer.score(Clip("1", "four words of text", np.zeros(0, "float32"), 16_000))
    assert (row["failure"], row["errors"], row["words"]) == ("empty", 4, 4)
    assert (row["dnsmos"], row["similarity"]) == (1.0, 0.0)
    scorer.set_reference([])
    assert scorer.used == ["wer", "wer_base", "dnsmos"]


def test_the_corpus_rate_caps_each_clip_at_its_words():
    rows = [
        {"words": 2, "errors": 6, "dnsmos": 3.0, "failure": "", "seconds": 1.0},
        {"words": 8, "errors": 0, "dnsmos": 2.0, "failure": "", "seconds": 1.0},
    ]
    total = score.summarize(rows)
    assert total["wer"] == pytest.approx(20)
    assert total["wer_raw"] == pytest.approx(60)
    assert total["wer_mean"] == pytest.approx(50)
    assert "similarity" not in total


def test_dnsmos_is_that_of_its_package_also_beyond_full_scale():
    pytest.importorskip("onnxruntime", reason=AB)
    original = pytest.importorskip("speechmos.dnsmos", reason=AB)
    audio = 4 * tone(2)
    values = score.Scorer(["dnsmos"]).measure("dnsmos", Clip("0", "", audio, 16_000))
    expected = original.run(np.clip(audio, -1, 1), 16_000)["ovrl_mos"]
    assert values == {"dnsmos": pytest.approx(expected, abs=1e-6)}


def test_the_voice_of_a_clip_is_nearest_to_itself():
    pytest.importorskip("resemblyzer", reason=AB)
    random = np.random.default_rng(0)
    metric = SpeakerSimilarity(SpeakerSimilarity.Config())
    time = np.arange(48_000) / 16_000
    voice = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 30)) * 0.1
    voice = (voice * np.sin(2 * np.pi * 3 * time) ** 2).astype("float32")
    hum = Clip("hum", "", voice, 16_000)
    hiss = Clip("hiss", "", (0.1 * random.normal(size=48_000)).astype("float32"), 16_000)
    again = Clip("again", "", voice.copy(), 16_000)
    metric.set_reference([hum])
    assert metric.score(again)["similarity"] == pytest.approx(1, abs=1e-5)
    assert metric.score(hiss)["similarity"] < 0.9
    # a recording of the reference is compared with the others
    metric.set_reference([hum, hiss])
    assert metric.score(hum)["similarity"] < 0.9
    assert metric.score(again)["similarity"] > metric.score(hum)["similarity"]


def test_recordings_are_matched_with_lines_by_number(tmp_path):
    for name in ("002", "000"):
        soundfile.write(tmp_path / f"{name}.wav", tone(), 16_000)
    found = clips.read_folder(tmp_path, ["zero", "one", "two"])
    assert [(clip.key, clip.text) for clip in found] == [("000", "zero"), ("002", "two")]
    with pytest.raises(UsageError, match="no line"):
        clips.read_folder(tmp_path, ["zero"])


def test_recordings_with_names_need_one_line_each(tmp_path):
    soundfile.write(tmp_path / "hello.wav", tone(), 16_000)
    assert clips.read_folder(tmp_path, ["hello"])[0].text == "hello"
    with pytest.raises(UsageError, match="cannot be matched"):
        clips.read_folder(tmp_path, ["hello", "you"])


def test_a_missing_package_is_named_with_the_extra():
    with pytest.raises(MissingExtra) as caught:
        optional.need("no_such_module", "no-such-package", "do it")
    assert "no-such-package" in caught.value.what
    assert "wishbone-tts[ab]" in caught.value.do


def test_margins_can_be_set_and_are_checked():
    assert metrics.choose({"wer": 0.5})["wer"].margin == 0.5
    assert metrics.choose()["wer"].margin == 2.0
    with pytest.raises(ConfigError, match="Did you mean 'wer'"):
        metrics.choose({"wers": 1})
    with pytest.raises(ConfigError, match="above 0"):
        metrics.choose({"wer": 0})
