"""Clips on disk, and the failures that show without listening."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wishbone.core.audio.files import read
from wishbone.core.config.text_files import read_text
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.extensions.metric import Clip

SHORTEST = 0.1
"""Seconds; less audio than this is an empty answer."""
SLOWEST = 0.25
"""Seconds of audio a character of text may take. English takes 0.06; four times that has run on."""
SLACK = 3.0
"""Seconds added to that limit, so that a short text with a pause is not a runaway."""


def failure(audio: np.ndarray, rate: int, text: str) -> str:
    """Return why a clip counts as failed: "not finite", "empty", "silent", "ran on", or ""."""
    if len(audio) and not np.isfinite(audio).all():
        return "not finite"
    if len(audio) < SHORTEST * rate:
        return "empty"
    if float(np.abs(audio).max()) < 1e-3:
        return "silent"
    if len(audio) / rate > SLOWEST * len(text) + SLACK:
        return "ran on"
    return ""


def read_folder(folder: Path, texts: list[str], limit: int | None = None) -> list[Clip]:
    """The recordings of ``folder`` with their texts; raises as ``list_folder`` does."""
    return [
        Clip(path.stem, text, *read_audio(path)) for path, text in list_folder(folder, texts, limit)
    ]


def list_folder(folder: Path, texts: list[str], limit: int | None = None) -> list[tuple[Path, str]]:
    """The files of ``folder`` with their texts.

    Names that are numbers are line numbers of the text, from 0; otherwise the files in order of
    their names are the lines. Raises ``UsageError`` when they cannot be matched.
    """
    if not folder.is_dir():
        raise UsageError("There is no such folder.", str(folder), "Name a folder of recordings.")
    endings = {".wav", ".flac", ".ogg", ".opus"}
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
    if not files:
        raise UsageError(
            "The folder holds no recording.", str(folder), "Put .wav, .flac, .ogg or .opus there."
        )
    numbered = all(path.stem.isdigit() for path in files)
    if not numbered and len(files) != len(texts):
        raise UsageError(
            f"{len(files)} recordings cannot be matched with {len(texts)} lines of text.",
            str(folder),
            "Name each file by its line number from 0 (000.wav), or give as many lines as files.",
        )
    lines = [int(path.stem) if numbered else i for i, path in enumerate(files)]
    if max(lines) >= len(texts):
        raise UsageError(
            f"'{files[-1].name}' has no line: the text has {len(texts)} lines.",
            str(folder),
            "Give the text file these recordings were made from.",
        )
    return [(path, texts[line]) for path, line in zip(files, lines, strict=True)][:limit]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold anything."""
    lines = read_text(path).splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """A recording as mono [S] float32 and its samples per second; raises ``DataError``."""
    audio = read(path)
    return audio.samples.numpy(), audio.sample_rate
