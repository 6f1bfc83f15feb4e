"""The index of token data: one file that training maps into memory instead of reading all of it.

``tokens.arrow`` beside the Parquet files is Arrow's own file format, not compressed: rows in the
order of the files, with the columns of token data and ``text_hash``, the first 64 bits of each
text's SHA-256. Its metadata says which files it was made of, and the highest number of each column,
so that the start of a training reads neither codes nor texts. ``wishbone data gather`` writes it
after every number was checked; where a Parquet file has changed since, the index is not used.
"""

from __future__ import annotations

import hashlib
import json
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.atomic import replacing
from wishbone.core.data.parquet import arrow, damage_named, read_schema
from wishbone.core.data.tokens import (
    EXTRA,
    PROMPT,
    Ragged,
    TokenCorpus,
    hash_text,
    parquet_files,
    read_tokens,
    require_equal_parts,
)

INDEX = "tokens.arrow"
ABOUT = b"wishbone_index"
"""Key of the metadata that only an index has."""
VERSION = 1
BATCH = 65_536
"""Rows of a record batch: a hundred batches for 10 000 hours, each with some MB of codes."""
LISTS = ("text_ids", "codes", "word_ends", *EXTRA, PROMPT)


class MappedLists:
    """Lists of integers in several pieces of memory, which may be those of a mapped file.

    It is what ``Ragged`` is for lists that are in memory; ``rows`` chooses some of them.
    """

    def __init__(
        self,
        pieces: Sequence[tuple[np.ndarray, np.ndarray]],
        highest: int,
        rows: np.ndarray | None = None,
    ) -> None:
        """``pieces`` are (values, starts [lists + 1]); ``highest`` is the largest of all values."""
        self.pieces, self._highest, self.rows = pieces, highest, rows
        counts = [0, *(len(starts) - 1 for _, starts in pieces)]
        self.first = [int(number) for number in np.cumsum(counts)]
        """Number of the first list of each piece, and of all."""

    def __len__(self) -> int:
        return self.first[-1] if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        row = int(index if self.rows is None else self.rows[index])
        piece = bisect_right(self.first, row) - 1
        values, starts = self.pieces[piece]
        place = row - self.first[piece]
        return values[starts[place] : starts[place + 1]]

    def lengths(self) -> np.ndarray:
        """Length of every list, [lists]."""
        return self._lengths

    @cached_property
    def _lengths(self) -> np.ndarray:
        parts = [np.diff(starts) for _, starts in self.pieces]
        lengths = np.concatenate([np.empty(0, np.int64), *parts])
        return lengths if self.rows is None else lengths[self.rows]

    def take(self, rows: np.ndarray) -> MappedLists:
        """The lists ``rows`` alone, not copied."""
        chosen = rows if self.rows is None else self.rows[rows]
        return MappedLists(self.pieces, self._highest, chosen)

    def highest(self) -> int:
        """The largest value, -1 where there is none; that of all lists, also of those not taken."""
        return self._highest

    def row_of(self, value: int) -> int:
        """Return the first list that holds ``value``; -1 where none of those taken does."""
        return next((row for row in range(len(self)) if (self[row] == value).any()), -1)


class MappedTexts(Sequence[str]):
    """Texts in several pieces of memory; ``rows`` chooses some of them."""

    def __init__(self, pieces: Sequence[Any], rows: np.ndarray | None = None) -> None:
        """``pieces`` are arrays of pyarrow, or lists."""
        self.pieces, self.rows = pieces, rows
        self.first = [int(number) for number in np.cumsum([0, *map(len, pieces)])]

    def __len__(self) -> int:
        return self.first[-1] if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = int(index if self.rows is None else self.rows[index])
        piece = bisect_right(self.first, row) - 1
        return str(self.pieces[piece][row - self.first[piece]])

    def take(self, rows: np.ndarray) -> MappedTexts:
        """The texts ``rows`` alone, not copied."""
        return MappedTexts(self.pieces, rows if self.rows is None else self.rows[rows])


def write_index(folder: str | Path) -> Path:
    """Write the index of a folder of token data, file by file, every number checked.

    Raises ``DataError`` as ``read_tokens`` does. Memory is that of one file and one record batch.
    """
    folder = Path(folder)
    files, pyarrow = parquet_files(folder), arrow()
    numbers = pyarrow.list_(pyarrow.int32())
    kinds = {
        "id": pyarrow.string(),
        "text": pyarrow.string(),
        "seconds": pyarrow.float32(),
        "text_hash": pyarrow.uint64(),
        **dict.fromkeys(LISTS, numbers),
    }
    present = {name for file in files for name in read_schema(file).names}
    columns = [name for name in kinds if name not in (*EXTRA, PROMPT) or name in present]
    schema = pyarrow.schema([(name, kinds[name]) for name in columns])
    facts: dict[str, Any] = {"version": VERSION, "files": [], "highest": {}, "about": {}}
    target = folder / INDEX
    with replacing(target) as temporary:
        with pyarrow.ipc.new_file(str(temporary), schema) as writer:
            waiting: list[Any] = []
            for table in _tables(files, schema, facts):
                waiting.append(table)
                if sum(map(len, waiting)) >= BATCH:
                    waiting = _write_full(writer, pyarrow.concat_tables(waiting))
            for batch in pyarrow.concat_tables(waiting).combine_chunks().to_batches():
                writer.write_batch(batch)
            # what is known last stands with a batch of no rows, so that one file holds it all
            writer.write_batch(_no_rows(schema), custom_metadata={ABOUT: json.dumps(facts)})
    return target


def _no_rows(schema: Any) -> Any:
    pyarrow = arrow()
    arrays = [pyarrow.array([], field.type) for field in schema]
    return pyarrow.record_batch(arrays, schema=schema)


def _write_full(writer: Any, table: Any) -> list[Any]:
    """Write record batches of ``BATCH`` rows -> the rest."""
    full = len(table) // BATCH * BATCH
    for begin in range(0, full, BATCH):
        for batch in table.slice(begin, BATCH).combine_chunks().to_batches():
            writer.write_batch(batch)
    rest = table.slice(full)
    return [rest] if len(rest) else []


def _tables(files: Sequence[Path], schema: Any, facts: dict[str, Any]) -> Iterator[Any]:
    """One table a file; ``facts`` are completed on the way."""
    pyarrow = arrow()
    for number, file in enumerate(files):
        corpus = read_tokens(file)
        if number:
            require_equal_parts(facts["about"], corpus.about, file)
        facts["about"] = corpus.about
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        facts["files"].append([file.name, *_stamp(file), digest])
        values = {
            "id": corpus.ids,
            "text": corpus.texts,
            "seconds": corpus.seconds,
            "text_hash": np.asarray([hash_text(text) for text in corpus.texts], np.uint64),
        }
        for name in schema.names:
            if name in values:
                continue
            lists = getattr(corpus, COLUMN_FIELDS.get(name, name))
            lists = Ragged.of([()] * len(corpus)) if lists is None else lists
            facts["highest"][name] = max(facts["highest"].get(name, -1), lists.highest())
            starts = pyarrow.array(lists.starts.astype(np.int32))
            values[name] = pyarrow.ListArray.from_arrays(starts, pyarrow.array(lists.values))
        yield pyarrow.table({name: values[name] for name in schema.names}, schema=schema)


def open_tokens(folder: str | Path) -> TokenCorpus | None:
    """Map the index of a folder -> its corpus; None where there is none that fits its files.

    Raises ``DataError`` for an index that is damaged.
    """
    folder = Path(folder) if Path(folder).exists() else weights_folder(str(folder))
    path = folder / INDEX
    if not path.is_file():
        return None
    pyarrow = arrow()
    with damage_named(path):
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches - 1)]
        _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        facts = json.loads((metadata or {})[ABOUT])
        if facts["version"] != VERSION:
            return None
    files = parquet_files(folder)
    digests = _digests(files, facts["files"])
    if digests is None:
        print(
            f"{path}: files have changed since it was written, so it is not used; run 'wishbone"
            f" data gather {folder}'",
            file=sys.stderr,
        )
        return None
    names = reader.schema.names
    lists = {
        name: MappedLists([_piece(batch.column(name)) for batch in batches], facts["highest"][name])
        for name in LISTS
        if name in names
    }

    def joined(name: str, kind: type[Any]) -> np.ndarray:
        return np.concatenate([np.empty(0, kind), *(np.asarray(b.column(name)) for b in batches)])

    return TokenCorpus(
        ids=MappedTexts([batch.column("id") for batch in batches]),
        texts=MappedTexts([batch.column("text") for batch in batches]),
        text=lists["text_ids"],
        codes=lists["codes"],
        word_ends=lists["word_ends"],
        seconds=joined("seconds", np.float32),
        about=facts["about"],
        files=files,
        text_hashes=joined("text_hash", np.uint64),
        digests=digests,
        **{name: lists.get(name) for name in (*EXTRA, PROMPT)},
    )


def chain_mapped(parts: Sequence[TokenCorpus], about: dict[str, Any]) -> TokenCorpus:
    """Several corpora in a row, some of them mapped; nothing is copied.

    A column that only some have is empty in the others.
    """

    def lists(name: str) -> MappedLists | None:
        columns = [getattr(part, name) for part in parts]
        if all(column is None for column in columns):
            return None
        pieces, highest = [], -1
        for part, column in zip(parts, columns, strict=True):
            if column is None:
                pieces.append((np.empty(0, np.int32), np.zeros(len(part) + 1, np.int64)))
                continue
            highest = max(highest, column.highest())
            one = isinstance(column, Ragged)
            pieces += [(column.values, column.starts)] if one else column.pieces
        return MappedLists(pieces, highest)

    def texts(name: str) -> MappedTexts:
        columns = [getattr(part, name) for part in parts]
        return MappedTexts(
            [p for x in columns for p in (x.pieces if isinstance(x, MappedTexts) else [x])]
        )

    seconds, hashes = (
        [part.seconds for part in parts],
        [part.hashes_of_texts() for part in parts],
    )
    names = ("text", "codes", "word_ends", *EXTRA, PROMPT)
    return TokenCorpus(
        ids=texts("ids"),
        texts=texts("texts"),
        seconds=np.concatenate(seconds),
        about=about,
        files=[file for part in parts for file in part.files],
        text_hashes=np.concatenate(hashes),
        digests={file: digest for part in parts for file, digest in part.digests.items()},
        **{name: lists(name) for name in names},  # type: ignore[arg-type]
    )


COLUMN_FIELDS = {"text_ids": "text"}
"""Column -> field of ``TokenCorpus``, where they differ."""


def _piece(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and starts of a list column, in the memory of the file."""
    return np.asarray(column.values), np.asarray(column.offsets)


def _stamp(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns


def _digests(files: Sequence[Path], facts: Sequence[Any]) -> dict[Path, str] | None:
    """SHA-256 of every file as the index says, None where one of them is another now.

    A file that was copied has another time and is read.
    """
    if [file.name for file in files] != [name for name, *_ in facts]:
        return None
    digests = {}
    for file, (_, size, modified, digest) in zip(files, facts, strict=True):
        now_size, now_modified = _stamp(file)
        if now_size != size:
            return None
        if now_modified != modified:
            with file.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != digest:
                    return None
        digests[file] = digest
    return digests
