"""Audio data for the codec's training: arrays in memory, cut at random."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wishbone.core.audio.pitch import track
from wishbone.core.contract.atomic import replacing
from wishbone.core.contract.errors import DataError
from wishbone.core.weights.provenance import hash_files
from wishbone.plugins.fsqcodec.decoder import HOP, PITCH_HIGH, PITCH_LOW, SAMPLE_RATE, SAMPLES
from wishbone.plugins.fsqcodec.semantic import features

VOWELS = "ɪ i ʊ u ɛ ə ʌ ɔ ɑ æ ɚ eɪ aɪ ɔɪ oʊ aʊ".split()
CONSONANTS = "p b t d k ɡ t͡ʃ d͡ʒ f v θ ð s z ʃ ʒ h m n ŋ l ɹ j w".split()
CLASSES = {symbol: number + 1 for number, symbol in enumerate((*VOWELS, *CONSONANTS))}
"""Phoneme without stress -> class; 0 is silence."""
PREPARED = 2  # raised whenever recordings are prepared in another way
LABEL_SECONDS = SAMPLES / 2 / SAMPLE_RATE  # two labels per code frame


@dataclass
class Recording:
    """One utterance, ready to be cut at code frames."""

    audio: np.ndarray
    """[960 T] int16."""
    pitch: np.ndarray
    """[4 T] Hz at the end of each 10 ms frame, carried through unvoiced parts."""
    voiced: np.ndarray
    """[4 T] bool."""
    labels: np.ndarray
    """[2 T] phoneme class, or -1 without phoneme ends in the data."""
    semantic: np.ndarray | None = None
    """[2 T, 384] float16 features of a recogniser (``semantic.py``), where they are wanted."""


def recording(row: dict) -> Recording:
    """A row of audio data (see ``wishbone data speak``) -> Recording."""
    import soundfile

    audio, rate = soundfile.read(io.BytesIO(row["audio"]), dtype="float64")
    if rate != SAMPLE_RATE:
        raise DataError(
            f"utterance {row['id']} has {rate} samples per second, not {SAMPLE_RATE}",
            "audio data",
            "make the audio data anew with 'wishbone data speak'",
        )
    frames = len(audio) // SAMPLES
    pitch, voiced = track(audio[: frames * SAMPLES], SAMPLE_RATE, HOP)
    return Recording(
        (audio[: frames * SAMPLES] * 32767).astype(np.int16),
        pitch,
        voiced,
        _labels(row, frames * 2),
    )


def _labels(row: dict, frames: int) -> np.ndarray:
    """Phoneme classes of label frames, [frames]."""
    ends = row.get("phoneme_ends")
    if not ends:
        return np.full(frames, -1, np.int8)
    classes, until, start = [], [], 0
    for phonemes, separator, word_end in zip(
        row["phonemes"], row["separators"], row["ends"], strict=True
    ):
        for symbol in phonemes.split(" "):
            classes.append(CLASSES[symbol.lstrip("ˈˌ")])
            until.append(ends[start])
            start += 1
        if separator != " ":
            classes.append(0)
            until.append(word_end)
        else:
            until[-1] = word_end
    middle = (np.arange(frames) + 0.5) * LABEL_SECONDS  # [frames] seconds
    place = np.searchsorted(np.asarray(until), middle).clip(max=len(classes) - 1)  # [frames]
    return np.asarray(classes, np.int8)[place]  # [frames]


def prepared(file: Path, semantic: bool = False) -> list[Recording]:
    """The recordings of one Parquet file; the arrays are stored beside it for the next run.

    Tracking the pitch takes longer than reading: a second for each minute of audio. So do the
    recogniser's features of ``semantic``.
    """
    import pyarrow.parquet as parquet

    name = f"{file.stem}-{hash_files([file])[:12]}-{PREPARED}"
    cache = file.parent / "prepared" / f"{name}.npz"
    if not cache.exists():
        recordings = [recording(row) for row in parquet.read_table(file).to_pylist()]
        arrays = {
            name: np.concatenate([getattr(item, name) for item in recordings])
            for name in ("audio", "pitch", "voiced", "labels")
        }
        frames = np.array([len(item.labels) // 2 for item in recordings])  # [recordings]
        with replacing(cache) as temporary, temporary.open("wb") as out:
            np.savez(out, frames=frames, **arrays)
    with np.load(cache, allow_pickle=False) as stored:
        cuts = np.cumsum(stored["frames"])[:-1]
        parts = (
            np.split(stored[name], cuts * per_frame)
            for name, per_frame in (("audio", SAMPLES), ("pitch", 4), ("voiced", 4), ("labels", 2))
        )
        recordings = [Recording(*arrays) for arrays in zip(*parts, strict=True)]
    if semantic:
        _add_semantic(recordings, cache.with_name(f"{name}-tiny.en.npy"))
    return recordings


def _add_semantic(recordings: list[Recording], cache: Path) -> None:
    """Give the recordings of a file their recogniser's features, from ``cache`` or stored there."""
    if not cache.exists():
        with replacing(cache) as temporary, temporary.open("wb") as out:
            np.save(out, np.concatenate(features([item.audio for item in recordings])))
    stored = np.load(cache, mmap_mode="r", allow_pickle=False)  # [sum of 2 T, 384]
    start = 0
    for item in recordings:
        item.semantic = stored[start : start + len(item.labels)]  # [2 T, 384]
        start += len(item.labels)


def load(
    folders: Sequence[Path], hours: float, semantic: bool = False
) -> tuple[list[list[Recording]], list[Path]]:
    """Recordings of each folder's Parquet files, last names first, up to ``hours`` from each.

    Also returns the files that were read. With ``semantic`` they have a recogniser's features.
    """
    groups, files_read = [], []
    for folder in folders:
        files = sorted(folder.glob("*.parquet"), reverse=True)
        if not files:
            raise DataError(
                "There is no Parquet file in the folder named.",
                str(folder),
                "Make audio data with 'wishbone data speak'.",
            )
        group: list[Recording] = []
        for file in files:
            files_read.append(file)
            group += prepared(file, semantic)
            if sum(len(item.audio) for item in group) / SAMPLE_RATE > hours * 3600:
                break
        groups.append(group)
    return groups, files_read


class Crops:
    """Random cuts of recordings, all of ``frames`` code frames, as batches for training.

    A folder is drawn with a weight of the square root of its hours, so that a voice with little
    audio comes often enough and not too often. Raises ``DataError`` where a folder has no recording
    long enough.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Recording]],
        frames: int,
        generator: np.random.Generator,
        stretched: float = 0.0,
    ):
        """``stretched`` is the share of cuts played faster or slower, as another person's."""
        reach = math.ceil(frames * (STRETCH if stretched else 1.0))
        fitting = [[item for item in group if len(item.labels) // 2 >= reach] for group in groups]
        if not all(fitting) or not fitting:
            raise DataError(
                f"A folder has no recording long enough for {reach} code frames.",
                "audio data",
                "Take more --hours, or other audio data.",
            )
        self.groups, self.frames = fitting, frames
        self.generator, self.stretched = generator, stretched
        weights = np.sqrt([sum(len(item.labels) for item in group) for group in fitting])
        self.weights = weights / weights.sum()

    def batch(self, size: int) -> Batch:
        """``size`` cuts, each with another cut of the same recording for the speaker embedding."""
        draw = self.generator
        cuts, others, semantic = [], [], []
        for _ in range(size):
            group = self.groups[draw.choice(len(self.groups), p=self.weights)]
            item = group[draw.integers(len(group))]
            labels = 2 * self.frames
            if draw.random() < self.stretched:
                labels = round(labels * STRETCH ** draw.uniform(-1.0, 1.0))
            spare = len(item.labels) - labels
            start = int(draw.integers(spare + 1))
            cuts.append(_cut(item, start, labels, self.frames))
            if item.semantic is not None:
                semantic.append(item.semantic[start + _places(labels, self.frames)])
            others.append(_cut(item, int(draw.integers(spare + 1)), labels, self.frames)[0])
        # [size, samples], [size, 4 F], [size, 4 F], [size, 2 F]
        audio, pitch, voiced, labels = (np.stack(part) for part in zip(*cuts, strict=True))
        return Batch(
            torch.from_numpy(audio),
            torch.from_numpy(pitch),
            torch.from_numpy(voiced),
            torch.from_numpy(labels).long(),
            torch.from_numpy(np.stack(others)),
            torch.from_numpy(np.stack(semantic)).float() if semantic else None,
        )


STRETCH = 1.3
"""Largest factor of a stretched cut, faster or slower. A vocal tract is up to a fifth shorter in a
woman than in a man and shorter still in a child; playing faster shortens it and raises the pitch
with it."""


@dataclass
class Batch:
    """Cuts of F code frames."""

    audio: Tensor
    """[B, 960 F] in -1..1."""
    pitch: Tensor
    """[B, 4 F] Hz."""
    voiced: Tensor
    """[B, 4 F] bool."""
    labels: Tensor
    """[B, 2 F] phoneme class or -1."""
    other: Tensor
    """[B, 960 F]: the same voice, elsewhere in the recording."""
    semantic: Tensor | None = None
    """[B, 2 F, 384] features of a recogniser; None where no recording has them."""


def _places(length: int, frames: int) -> np.ndarray:
    """For each of 2 ``frames`` labels its place [2 F] among ``length`` labels of the recording."""
    return ((np.arange(2 * frames) + 0.5) * length / (2 * frames)).astype(int)  # [2 F]


def _cut(
    item: Recording, start: int, length: int, frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``length`` labels (of 20 ms) from ``start``, played in the time of ``frames`` code frames."""
    step = SAMPLES // 2
    audio = item.audio[start * step : (start + length) * step].astype(np.float32) / 32767
    pitch = item.pitch[start * 2 : (start + length) * 2]
    voiced = item.voiced[start * 2 : (start + length) * 2]
    labels = item.labels[start : start + length]
    factor = length / (2 * frames)
    if factor != 1.0:
        size = frames * SAMPLES
        spectrum = np.fft.rfft(audio)
        # a slower cut lacks the highest frequencies, a faster one loses them
        fitted = np.zeros(size // 2 + 1, np.complex64)
        shared = min(len(fitted), len(spectrum))
        fitted[:shared] = spectrum[:shared]
        audio = (np.fft.irfft(fitted, size) / factor).astype(np.float32)
        ends = (np.arange(4 * frames) + 1) * factor - 1
        pitch = np.interp(ends, np.arange(len(pitch)), pitch).astype(np.float32) * factor
        voiced = voiced[ends.round().astype(int).clip(0, len(voiced) - 1)]
        labels = labels[_places(length, frames)]
    return audio, pitch.clip(PITCH_LOW, PITCH_HIGH), voiced, labels
