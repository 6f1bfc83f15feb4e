"""Audio data as the codec's training wants it: arrays in memory, cut at random."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wishbone.core.errors import DataError, MissingExtra
from wishbone.core.weights import hash_files
from wishbone.plugins.fsqcodec.decoder import HOP, PITCH_HIGH, PITCH_LOW, SAMPLE_RATE
from wishbone.plugins.fsqcodec.tokenizer import SAMPLES

VOWELS = "ɪ i ʊ u ɛ ə ʌ ɔ ɑ æ ɚ eɪ aɪ ɔɪ oʊ aʊ".split()
CONSONANTS = "p b t d k ɡ t͡ʃ d͡ʒ f v θ ð s z ʃ ʒ h m n ŋ l ɹ j w".split()
CLASSES = {symbol: number + 1 for number, symbol in enumerate((*VOWELS, *CONSONANTS))}
"""Phoneme without stress -> class; 0 is silence."""
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
    """[2 T] phoneme class, or -1 where the data does not say."""


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
    pitch, voiced = _pitch(audio, frames * 4)
    return Recording(
        (audio[: frames * SAMPLES] * 32767).astype(np.int16),
        pitch,
        voiced,
        _labels(row, frames * 2),
    )


def _pitch(audio: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        import pyworld
    except ImportError as error:
        raise MissingExtra(
            "training the codec needs a pitch tracker",
            "pyworld",
            "pip install 'wishbone-tts[train]'",
        ) from error
    coarse, times = pyworld.dio(
        audio, SAMPLE_RATE, f0_floor=PITCH_LOW, f0_ceil=PITCH_HIGH, frame_period=HOP / 24
    )
    track = pyworld.stonemask(audio, coarse, times, SAMPLE_RATE)[1 : frames + 1]
    track = np.pad(track, (0, frames - len(track)))
    voiced = track > 0
    if voiced.any():
        track = np.interp(np.arange(frames), np.flatnonzero(voiced), track[voiced])
    else:
        track = np.full(frames, 120.0)
    return track.astype(np.float32), voiced


def _labels(row: dict, frames: int) -> np.ndarray:
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
    middle = (np.arange(frames) + 0.5) * LABEL_SECONDS
    place = np.searchsorted(np.asarray(until), middle).clip(max=len(classes) - 1)
    return np.asarray(classes, np.int8)[place]


def prepared(file: Path) -> list[Recording]:
    """The recordings of one Parquet file; what was worked out is kept beside it for the next run.

    Tracking the pitch takes longer than reading: a second for each minute of audio.
    """
    import pyarrow.parquet as parquet

    kept = file.parent / "prepared" / f"{file.stem}-{hash_files([file])[:12]}.npz"
    if not kept.exists():
        made = [recording(row) for row in parquet.read_table(file).to_pylist()]
        arrays = {
            name: np.concatenate([getattr(item, name) for item in made])
            for name in ("audio", "pitch", "voiced", "labels")
        }
        frames = np.array([len(item.labels) // 2 for item in made])
        kept.parent.mkdir(exist_ok=True)
        aside = kept.with_suffix(f".{os.getpid()}.tmp")
        with aside.open("wb") as out:
            np.savez(out, frames=frames, **arrays)
        os.replace(aside, kept)
    with np.load(kept, allow_pickle=False) as stored:
        cuts = np.cumsum(stored["frames"])[:-1]
        parts = (
            np.split(stored[name], cuts * each)
            for name, each in (("audio", SAMPLES), ("pitch", 4), ("voiced", 4), ("labels", 2))
        )
        return [Recording(*arrays) for arrays in zip(*parts, strict=True)]


def load(folders: Sequence[Path], hours: float) -> tuple[list[Recording], list[Path]]:
    """Recordings from the Parquet files of all ``folders``, last names first, up to ``hours``.

    Also returns the files that were read.
    """
    files = sorted((file for folder in folders for file in folder.glob("*.parquet")),
                   key=lambda file: file.name, reverse=True)  # fmt: skip
    if not files:
        raise DataError(
            "There is no Parquet file in the folders named.",
            ", ".join(map(str, folders)),
            "Make audio data with 'wishbone data speak'.",
        )
    recordings, seconds, used = [], 0.0, []
    for file in files:
        used.append(file)
        recordings += prepared(file)
        seconds = sum(len(item.audio) for item in recordings) / SAMPLE_RATE
        if seconds > hours * 3600:
            break
    return recordings, used


def crops(
    recordings: list[Recording], frames: int, batch: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch of random cuts of ``frames`` code frames: audio, pitch, voiced, labels.

    Raises ``DataError`` when no recording has as many.
    """
    if not any(len(item.labels) // 2 >= frames for item in recordings):
        raise DataError(
            f"None of {len(recordings)} recordings is long enough for {frames} code frames.",
            "audio data",
            "Take more --hours, or other audio data.",
        )
    chosen = []
    while len(chosen) < batch:
        item = recordings[generator.integers(len(recordings))]
        spare = len(item.labels) // 2 - frames
        if spare >= 0:
            start = int(generator.integers(spare + 1))
            chosen.append(
                (
                    item.audio[start * SAMPLES : (start + frames) * SAMPLES],
                    item.pitch[start * 4 : (start + frames) * 4],
                    item.voiced[start * 4 : (start + frames) * 4],
                    item.labels[start * 2 : (start + frames) * 2],
                )
            )
    audio, pitch, voiced, labels = (np.stack(part) for part in zip(*chosen, strict=True))
    return (
        torch.from_numpy(audio).float() / 32767,
        torch.from_numpy(pitch),
        torch.from_numpy(voiced),
        torch.from_numpy(labels).long(),
    )
