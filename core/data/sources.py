"""Sources of recordings: audio data that a teacher made, or a folder of files and a table.

Audio data is Parquet with the columns ``id``, ``text``, ``words``, ``phonemes`` (of each word,
joined by spaces), ``separators``, ``ends`` (second at which each word ends), optionally
``phoneme_ends`` (the same for each phoneme) and ``speaker``, ``seconds`` and ``audio`` (a FLAC
file).

A folder of recordings has a ``metadata.tsv`` whose first line names its columns: ``file`` and
``text``, optionally ``id`` and ``speaker``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wishbone.core.contract.errors import DataError, WishboneError
from wishbone.core.contract.extensions.teacher import Word
from wishbone.core.data.tokens import arrow, parquet_files

TABLE = "metadata.tsv"
SHARD = 250
"""Recordings of a folder that become one shard of token data."""


@dataclass(frozen=True)
class Recording:
    """One utterance: its text and its audio."""

    id: str
    text: str
    audio: Tensor
    """[S]."""
    sample_rate: int
    words: tuple[Word, ...] = ()
    """As they were spoken; empty where only the text is known."""
    ends: tuple[float, ...] = ()
    """Second at which each word ends; may be empty."""
    speaker: str = ""
    phoneme_ends: tuple[float, ...] = ()
    """The same for each phoneme of all words in a row."""


@dataclass(frozen=True)
class Part:
    """A part of a source that becomes one shard: a Parquet file, or rows of a table."""

    name: str
    path: str
    begin: int = 0
    end: int = 0

    def recordings(self) -> Iterator[Recording | WishboneError]:
        """Every recording in turn, or the error of one that cannot be read."""
        return _of_parquet(self.path) if not self.end else _of_folder(self)


def parts(sources: Sequence[str | Path]) -> list[Part]:
    """Cut sources into parts with different names.

    Raises ``DataError`` when a source is neither kind or two parts have one name.
    """
    result: list[Part] = []
    for source in map(Path, sources):
        if source.is_dir() and (source / TABLE).is_file():
            count = len(_table(source))
            result += [
                Part(f"{source.name}-{begin:06d}", str(source), begin, min(begin + SHARD, count))
                for begin in range(0, count, SHARD)
            ]
        elif source.exists():
            result += [Part(file.stem, str(file)) for file in parquet_files(source)]
        else:
            raise DataError("There is no such file or folder.", str(source), "Check the name.")
    names = [part.name for part in result]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"Two sources have a part of the same name: {', '.join(repeated)}.",
            ", ".join(map(str, sources)),
            "Put them into folders of different names, or into different outputs.",
        )
    return result


def decode(data: bytes) -> tuple[Tensor, int]:
    """An audio file in memory -> samples [S] in -1..1 and their rate."""
    import soundfile

    audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return torch.from_numpy(audio.mean(axis=1)), int(rate)


def _of_parquet(path: str) -> Iterator[Recording | WishboneError]:
    table = arrow().parquet.read_table(path)
    missing = {"id", "text", "audio"} - set(table.column_names)
    if missing:
        raise DataError(
            f"This is not audio data: it lacks {', '.join(sorted(missing))}.",
            path,
            "Make audio data with 'wishbone data speak'.",
        )
    for row in table.to_pylist():
        try:
            audio, rate = decode(row["audio"])
        except Exception as error:
            yield DataError(f"not audio: {error}", row["id"], row["text"])
            continue
        words = tuple(
            Word(spelling, tuple(phonemes.split()), separator)
            for spelling, phonemes, separator in zip(
                row.get("words") or (),
                row.get("phonemes") or (),
                row.get("separators") or (),
                strict=False,
            )
        )
        ends = tuple(row.get("ends") or ())
        speaker = row.get("speaker") or ""
        phoneme_ends = tuple(row.get("phoneme_ends") or ())
        yield Recording(row["id"], row["text"], audio, rate, words, ends, speaker, phoneme_ends)


def _of_folder(part: Part) -> Iterator[Recording | WishboneError]:
    folder = Path(part.path)
    for row in _table(folder)[part.begin : part.end]:
        identity = row.get("id") or Path(row["file"]).stem
        try:
            audio, rate = decode((folder / row["file"]).read_bytes())
        except Exception as error:
            yield DataError(f"not audio: {error}", identity, row["text"])
            continue
        yield Recording(identity, row["text"], audio, rate, speaker=row.get("speaker") or "")


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"file", "text"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(
                f"The table lacks the columns {', '.join(sorted(missing))}.",
                str(folder / TABLE),
                "Name the columns in its first line, separated by tabs.",
            )
        return list(reader)
