"""Files of corpora: which there are, of which format each is, and its rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.contract.corpus import Unusable, Utterance
from wishbone.core.contract.errors import DataError
from wishbone.core.data.tokens import METADATA, arrow
from wishbone.core.registry.loader import Search, create, guarded, registry, search

PARQUET = b"PAR1"
"""How a Parquet file begins; CosyVoice calls its own ``parquet_000000000.tar``."""


ENDINGS = (".parquet", ".jsonl", ".tar")


@dataclass
class Account:
    """What became of the rows of a corpus."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason -> how many."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {why}" for why, count in self.dropped.most_common())
        return f"{self.kept} utterances from {self.read} rows" + (
            f"; left out: {reasons}" if reasons else "; none left out"
        )


def corpus_files(source: str | Path) -> list[Path]:
    """The files of a corpus: one file, a CosyVoice ``data.list``, or a folder, looked into deeply.

    Raises ``DataError`` where there is none.
    """
    source = Path(source)
    if source.suffix == ".list" and source.is_file():
        lines = source.read_text(encoding="utf-8").split("\n")
        named = [Path(line.strip()) for line in lines if line.strip()]
        files = [path if path.exists() else source.parent / path.name for path in named]
    elif source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix in ENDINGS)
        files = [p for p in files if p.suffix != ".tar" or _begins(p) == PARQUET]
    else:
        files = [source]
    gone = [path for path in files if not path.is_file()]
    if gone or not files:
        raise DataError(
            f"{gone[0].name} is not here." if gone else "There is no Parquet and no JSONL file.",
            str(source),
            "Give a folder of token data, of CosyVoice's Parquet or of RWKVTTS's JSONL.",
        )
    return files


def is_token_data(file: Path) -> bool:
    """Whether a file is our own."""
    if _begins(file) != PARQUET:
        return False
    return METADATA in (arrow().parquet.read_schema(file).metadata or {})


def utterances(files: Iterable[Path], account: Account) -> Iterator[Utterance]:
    """Every utterance that can be used, in order; ``account`` counts the others.

    Raises ``DataError`` for a file that is of no known kind.
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
    """The kind of corpus that has these columns.

    Raises ``DataError`` where there is none, ``PluginError`` where one that may be it is broken.
    """
    columns = set(columns)
    match = search("corpus", lambda part: bool(columns & set(part.columns)))
    if match.entry is not None:
        return match
    if match.failed:
        raise match.failed[0]
    if {"audio_data", "wav", "audio"} & columns:
        do = "Make codes first: CosyVoice's tools/extract_speech_token.py, or 'data tokenize'."
    else:
        do = "Give a folder of token data, of CosyVoice's Parquet or of RWKVTTS's JSONL."
    raise DataError(
        f"No column holds codes; known are {_known()}, and there are {', '.join(sorted(columns))}.",
        str(where),
        do,
    )


def _known() -> str:
    """The first column of every format."""
    names = []
    for entry in registry().of("corpus"):
        part = create(entry)
        with guarded(entry):
            names.append(f"{part.columns[0]} ({part.name})")
    return ", ".join(names)


def _records(file: Path) -> Iterator[Any]:
    """Rows of a file as dictionaries; a line that is none comes as None."""
    if _begins(file) == PARQUET:
        parquet = arrow().parquet.ParquetFile(file)
        heavy = {"audio_data", "wav", "utt_embedding", "spk_embedding", "reject_speech_token"}
        format_of(parquet.schema_arrow.names, file)
        columns = [name for name in parquet.schema_arrow.names if name not in heavy]
        for batch in parquet.iter_batches(batch_size=1024, columns=columns):
            yield from batch.to_pylist()
        return
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield _parsed(line)
    except UnicodeDecodeError as error:
        raise DataError(f"The file is no text: {error}.", str(file), "Name JSONL files.") from error


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _begins(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(len(PARQUET))
