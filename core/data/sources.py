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
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from wishbone.core.audio.files import decode
from wishbone.core.config.text_files import read_text
from wishbone.core.contract.errors import DataError, WishboneError
from wishbone.core.contract.extensions.teacher import Word
from wishbone.core.data.parquet import BYTES, NUMBERS, TEXT, TEXTS, read_table
from wishbone.core.data.tokens import parquet_files

TABLE = "metadata.tsv"
OTHER_TABLE = "metadata.csv"
"""Name of the list in corpora of others, whose columns have no names."""
COLUMNS = {"id": TEXT, "text": TEXT, "audio": BYTES}
OPTIONAL = {
    "words": TEXTS,
    "phonemes": TEXTS,
    "separators": TEXTS,
    "ends": NUMBERS,
    "phoneme_ends": NUMBERS,
    "speaker": TEXT,
}
"""Columns of audio data, and their types."""
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
    repeats: str = ""
    """Says which earlier row has the same file, with this text or another; empty without one."""


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
        elif source.is_dir() and (table := source / OTHER_TABLE).is_file():
            raise DataError(
                f"The folder has a {OTHER_TABLE} and no {TABLE}.",
                str(table),
                f"Write {TABLE}: a first line 'file' and 'text', then a recording a line, all"
                " separated by tabs.",
            )
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


def _of_parquet(path: str) -> Iterator[Recording | WishboneError]:
    do = "Make audio data with 'wishbone data speak'."
    for number, row in enumerate(read_table(path, COLUMNS, OPTIONAL, do).to_pylist()):
        try:
            audio = decode(row["audio"], f"{path}, row {number}")
            yield Recording(
                row["id"],
                row["text"],
                audio.samples,
                audio.sample_rate,
                words=_words(row),
                ends=_times(row, "ends"),
                speaker=row.get("speaker") or "",
                phoneme_ends=_times(row, "phoneme_ends"),
            )
        except DataError as error:
            yield DataError(f"not audio: {error.what}", row["id"], row["text"])
        except ValueError as error:
            yield DataError(f"damaged row: {error}", row["id"], row["text"])


def _words(row: Mapping[str, Any]) -> tuple[Word, ...]:
    """Return the words of a row; raises ``ValueError`` where its lists do not fit together."""
    lists = [row.get(name) or () for name in ("words", "phonemes", "separators")]
    if len({len(values) for values in lists if values}) > 1:
        raise ValueError(f"{', '.join(str(len(v)) for v in lists)} words, phonemes, separators")
    return tuple(
        Word(spelling, tuple(phonemes.split()), separator)
        for spelling, phonemes, separator in zip(*lists, strict=False)
    )


def _times(row: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """Return seconds of a row; raises ``ValueError`` for ones that are not finite, or fall."""
    times = tuple(row.get(name) or ())
    if (
        not all(map(math.isfinite, times))
        or list(times) != sorted(times)
        or min(times, default=0) < 0
    ):
        raise ValueError(f"its '{name}' are no times in a row")
    return times


def _of_folder(part: Part) -> Iterator[Recording | WishboneError]:
    folder = Path(part.path)
    for row in _table(folder)[part.begin : part.end]:
        identity, text = row["id"] or Path(row["file"]).stem, row["text"]
        if row["damage"]:
            yield DataError(row["damage"], identity, text)
            continue
        try:
            audio = decode((folder / row["file"]).read_bytes(), row["file"])
        except (DataError, OSError) as error:
            why = error.what if isinstance(error, DataError) else error.strerror
            yield DataError(f"not audio: {why}", identity, text)
            continue
        yield Recording(
            identity,
            text,
            audio.samples,
            audio.sample_rate,
            speaker=row["speaker"],
            repeats=row["repeats"],
        )


def _table(folder: Path) -> list[dict[str, str]]:
    """Rows of a table with ``file``, ``text``, ``id``, ``speaker``, all strings.

    ``damage`` is the reason why a row cannot be used, ``repeats`` that of ``Recording``; or "".
    """
    path = folder / TABLE
    lines = io.StringIO(read_text(path), newline="")
    try:
        reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
        missing = {"file", "text"} - set(reader.fieldnames or ())
        raw = [] if missing else list(reader)
    except csv.Error as error:
        raise DataError(
            f"The table cannot be read: {error}.", f"{path}:{reader.line_num}", "Correct it."
        ) from error
    if missing:
        raise DataError(
            f"The table lacks the columns {', '.join(sorted(missing))}.",
            str(path),
            "Name the columns in its first line, separated by tabs.",
        )
    rows, first = [], {}
    for number, values in enumerate(raw, start=2):
        row = {name: str(values.get(name) or "") for name in ("file", "text", "id", "speaker")}
        earlier = first.setdefault(row["file"], number)
        repeats = f"the same file as line {earlier}" if earlier != number else ""
        rows.append(row | {"damage": _damage(row), "repeats": repeats})
    return rows


def _damage(row: Mapping[str, str]) -> str:
    """Return why a row of a table cannot be used; empty where it can."""
    path = PurePath(row["file"])
    if not row["file"].strip() or not row["text"].strip():
        return "no file or no text in its line"
    if "\0" in "".join(row.values()):
        return "a zero byte in its line"
    if path.is_absolute() or ".." in path.parts:
        return "its file is outside the folder"
    return ""
