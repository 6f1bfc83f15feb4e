"""The files of a corpus, the format of each by its columns, and its utterances."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.config.text_files import read_text
from wishbone.core.contract.errors import DataError
from wishbone.core.contract.extensions.corpus import Unusable, Utterance
from wishbone.core.data.parquet import arrow, damage_named, read_schema
from wishbone.core.data.tokens import METADATA
from wishbone.core.registry.loader import Search, create, guarded, registry, search

PARQUET = b"PAR1"
"""First bytes of a Parquet file, which tell one whatever it is called."""
ENDINGS = (".parquet", ".jsonl", ".tar")
"""Names of files in a folder that may be a corpus; a ``.tar`` counts where it is Parquet."""
FORMATS = "Give a folder of token data, or of a format that 'wishbone plugins list' has as corpus."


@dataclass
class Account:
    """Counts of a corpus: rows read, usable utterances, and reasons to drop the others."""

    read: int = 0
    usable: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason -> number of rows."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{self.usable} utterances from {self.read} rows" + (
            f"; left out: {reasons}" if reasons else "; none left out"
        )


def corpus_files(source: str | Path) -> list[Path]:
    """The files of a corpus: one file, those in a ``.list``, or a folder with its subfolders.

    Raises ``DataError`` where there is none.
    """
    source = Path(source)
    if source.suffix == ".list" and source.is_file():
        lines = read_text(source).split("\n")
        entries = [Path(line.strip()) for line in lines if line.strip()]
        files = [path if path.exists() else source.parent / path.name for path in entries]
    elif source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix in ENDINGS)
        files = [p for p in files if p.suffix != ".tar" or _first_bytes(p) == PARQUET]
    else:
        files = [source]
    missing = [path.name for path in files if not path.is_file()]
    if missing or not files:
        raise DataError(
            f"{missing[0]} is not here." if missing else "There is no Parquet and no JSONL file.",
            str(source),
            FORMATS,
        )
    return files


def is_token_data(file: Path) -> bool:
    """Return whether a file is Wishbone's own token data."""
    if _first_bytes(file) != PARQUET:
        return False
    return METADATA in (read_schema(file).metadata or {})


def utterances(files: Iterable[Path], account: Account) -> Iterator[Utterance]:
    """Every utterance that can be used, in order; ``account`` counts the others.

    Raises ``DataError`` for a file of no known format.
    """
    for file in files:
        match: Search | None = None
        for number, row in enumerate(_records(file), start=1):
            account.read += 1
            if not isinstance(row, dict):
                account.dropped["no JSON object"] += 1
                continue
            match = match or format_of(row, file)
            try:
                with guarded(match.entry, passing=(Unusable,)):
                    yield from match.part.utterances(row, f"{file.stem}-{number:06d}")
            except Unusable as reason:
                account.dropped[str(reason)] += 1


def format_of(columns: Iterable[str], where: Path) -> Search:
    """The registered format that has one of these columns.

    Raises ``DataError`` where there is none, ``PluginError`` where one that may be it is broken.
    """
    columns = set(columns)
    match = search("corpus", lambda part: bool(columns & set(part.columns)))
    if match.entry is not None:
        return match
    if match.failed:
        raise match.failed[0]
    raise DataError(
        f"No column holds codes; known are {_code_columns()}, and there are"
        f" {', '.join(sorted(columns))}.",
        str(where),
        f"{FORMATS} Recordings become codes by 'wishbone data tokenize'.",
    )


def _code_columns() -> str:
    """The first column of every format, for people."""
    names = []
    for entry in registry().of("corpus"):
        part = create(entry)
        with guarded(entry):
            names.append(f"{part.columns[0]} ({part.name})")
    return ", ".join(names)


def _records(file: Path) -> Iterator[Any]:
    """Rows of a file as dictionaries; None for a line that is no JSON."""
    if _first_bytes(file) == PARQUET:
        names = read_schema(file).names
        match = format_of(names, file)
        with guarded(match.entry):
            unread = set(match.part.unread)
        columns = [name for name in names if name not in unread]
        with damage_named(file):
            batches = arrow().parquet.ParquetFile(file).iter_batches(1024, columns=columns)
        while (rows := _next_rows(batches, file)) is not None:
            yield from rows
        return
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield _parsed(line)
    except UnicodeDecodeError as error:
        raise DataError(f"The file is no text: {error}.", str(file), "Name JSONL files.") from error


def _next_rows(batches: Iterator[Any], file: Path) -> list[Any] | None:
    with damage_named(file):
        batch = next(batches, None)
        return None if batch is None else batch.to_pylist()


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(len(PARQUET))
