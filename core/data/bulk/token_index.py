"""The index of token data: one file of which training reads what it needs, when it needs it.

``tokens.arrow`` beside the Parquet files is Arrow's own file format, not compressed: rows in the
order of the files, with the columns of token data and ``text_hash``, the first 64 bits of each
text's SHA-256. Its metadata says which files it was made of, and the highest number of each column,
so that the start of a training reads neither codes nor texts. ``wishbone data gather`` writes it
after every number was checked, and they are not checked again; where a Parquet file has changed
since, the index is not used.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.atomic import replacing
from wishbone.core.data.bulk.file_lists import EncodedTexts, FileLists, FileTexts, FileValues
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
        mapped = pyarrow.memory_map(str(path))
        content = StoredArrays(path, mapped.read_buffer().address)
        mapped.seek(0)
        reader = pyarrow.ipc.open_file(mapped)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches - 1)]
        _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        facts = _facts((metadata or {}).get(ABOUT), reader.schema.names)
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
        name: FileLists([content.lists(b.column(name)) for b in batches], facts["highest"][name])
        for name in LISTS
        if name in names
    }

    def joined(name: str, kind: type[Any]) -> np.ndarray:
        return np.concatenate([np.empty(0, kind), *(np.asarray(b.column(name)) for b in batches)])

    return TokenCorpus(
        ids=FileTexts([content.texts(batch.column("id")) for batch in batches]),
        texts=FileTexts([content.texts(batch.column("text")) for batch in batches]),
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


class StoredArrays:
    """Where the arrays of a mapped file stand in it: starts stay mapped, values are read."""

    def __init__(self, path: Path, address: int) -> None:
        """``address`` is where the file is mapped."""
        self._file, self._address = FileIO(path), address

    def lists(self, column: Any) -> tuple[FileValues, np.ndarray]:
        """Values and starts of a column of lists."""
        return self._values(np.asarray(column.values)), np.asarray(column.offsets)

    def texts(self, column: Any) -> EncodedTexts:
        """A column of texts."""
        _, starts, content = column.buffers()
        starts = np.frombuffer(starts, np.int32)[column.offset :][: len(column) + 1]
        # a column of empty texts, or of none, has no bytes and may have no buffer
        content = np.frombuffer(content or b"", np.uint8)
        return EncodedTexts(self._values(content), starts if len(starts) else np.zeros(1, np.int32))

    def _values(self, array: np.ndarray) -> FileValues:
        begin = array.ctypes.data - self._address if len(array) else 0
        return FileValues(self._file, begin, len(array), array.dtype)


def chain_mapped(parts: Sequence[TokenCorpus], about: dict[str, Any]) -> TokenCorpus:
    """Several corpora in a row, some of them mapped; nothing is copied.

    A column that only some have is empty in the others.
    """

    def lists(name: str) -> FileLists | None:
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
        return FileLists(pieces, highest)

    def texts(name: str) -> FileTexts:
        columns = [getattr(part, name) for part in parts]
        return FileTexts(
            [p for x in columns for p in (x.pieces if isinstance(x, FileTexts) else [x])]
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


def _facts(text: bytes | None, columns: Sequence[str]) -> dict[str, Any]:
    """What the index says of itself. Raises ``ValueError`` where that is no index."""
    facts = json.loads(text or b"null")
    kinds = {"version": int, "files": list, "highest": dict, "about": dict}
    if not isinstance(facts, dict):
        raise ValueError("it does not say which files it is of")
    for name, kind in kinds.items():
        if not isinstance(facts.get(name), kind):
            raise ValueError(f"its '{name}' is {facts.get(name)!r}")
    if not all(isinstance(each, list) and len(each) == 4 for each in facts["files"]):
        raise ValueError("its 'files' are none")
    lists = [name for name in LISTS if name in columns]
    if not all(isinstance(facts["highest"].get(name), int) for name in lists):
        raise ValueError(f"its 'highest' is {facts['highest']!r}")
    if missing := {"id", "text", "seconds", "text_hash", "codes"} - set(columns):
        raise ValueError(f"it lacks the columns {', '.join(sorted(missing))}")
    return facts


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
