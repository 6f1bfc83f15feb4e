"""Token data: text ids and codes of every utterance, in memory as flat arrays or mapped.

A corpus is a folder of Parquet files. Columns: ``id``, ``text``, ``text_ids``, ``codes`` (frame by
frame, the codebooks of one frame together), ``word_ends`` (code frames spoken when each word ends,
may be empty), ``seconds``, ``speaker``; ``global_codes`` and ``instruct`` (ids) where there are
any; ``prompt``, where an utterance begins with one that is its prompt: the numbers of ids, frames
and words of the prompt. The parts that made the ids stand in the schema's metadata under
``wishbone``, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.atomic import replacing
from wishbone.core.contract.errors import DataError
from wishbone.core.contract.layout import Prompt, Sample
from wishbone.core.data.parquet import INTEGERS, NUMBER, TEXT, arrow, read_schema, read_table
from wishbone.core.data.token_checks import DO, check_integers, check_rows, read_description

METADATA = b"wishbone"
EXTRA = ("global_codes", "instruct")
"""Columns that only some corpora have, beside ``prompt``."""
PROMPT = "prompt"
COLUMNS = {
    "id": TEXT,
    "text": TEXT,
    "text_ids": INTEGERS,
    "codes": INTEGERS,
    "word_ends": INTEGERS,
    "seconds": NUMBER,
}
"""Columns that every corpus has, and their types."""


def parquet_files(folder: str | Path) -> list[Path]:
    """The Parquet files of a corpus in the order of their names; bundled corpora have names too.

    Raises ``DataError`` when there is none.
    """
    folder = Path(folder) if Path(folder).exists() else weights_folder(str(folder))
    files = [folder] if folder.is_file() else sorted(folder.glob("*.parquet"))
    if not files:
        raise DataError(
            "There is no Parquet file here.",
            str(folder),
            "Give the folder that 'wishbone data' wrote.",
        )
    return files


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths in one array: list i is ``values[starts[i]:starts[i + 1]]``."""

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.starts[index] : self.starts[index + 1]]

    def lengths(self) -> np.ndarray:
        """Length of every list, [lists]."""
        return np.diff(self.starts)

    def highest(self) -> int:
        """The largest value, -1 where there is none."""
        return int(self.values.max(initial=-1))

    def row_of(self, value: int) -> int:
        """Return the first list that holds ``value``; -1 where none does."""
        places = np.flatnonzero(self.values == value)
        return int(np.searchsorted(self.starts, places[0], "right")) - 1 if len(places) else -1

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]]) -> Ragged:
        """Make one from lists of integers."""
        arrays = [np.asarray(row, dtype=np.int32) for row in lists]
        starts = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int32), *arrays]), starts)

    @classmethod
    def chain(cls, parts: Sequence[Ragged]) -> Ragged:
        """Several of them in a row."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths() for part in parts)])
        values = [part.values[part.starts[0] : part.starts[-1]] for part in parts]
        return cls(np.concatenate([np.empty(0, np.int32), *values]), np.cumsum(lengths))

    def take(self, rows: np.ndarray) -> Ragged:
        """The lists ``rows`` alone, copied."""
        lengths = self.lengths()[rows]
        values = [self[int(row)] for row in rows] or [np.empty(0, np.int32)]
        return Ragged(np.concatenate(values), np.concatenate([[0], np.cumsum(lengths)]))


class Lists(Protocol):
    """Lists of integers of different lengths: ``Ragged``, or those of a file."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> np.ndarray: ...
    def lengths(self) -> np.ndarray:
        """Length of every list, [lists]."""
        ...

    def highest(self) -> int:
        """The largest value, -1 where there is none."""
        ...

    def row_of(self, value: int) -> int:
        """Return the first list that holds ``value``; -1 where none does."""
        ...

    def take(self, rows: np.ndarray) -> Self:
        """The lists ``rows`` alone."""
        ...


class Texts(Protocol):
    """Texts by number: a list, or those of a file, of which ``take`` is a view."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> str: ...
    def __iter__(self) -> Iterator[str]: ...
    def take(self, rows: np.ndarray) -> Texts:
        """The texts ``rows`` alone."""
        ...


@dataclass(frozen=True)
class TokenCorpus:
    """All utterances of one or several folders."""

    ids: list[str] | Texts
    texts: list[str] | Texts
    text: Lists
    codes: Lists
    """Flat; every ``codebooks`` numbers are one frame."""
    word_ends: Lists
    seconds: np.ndarray
    about: dict[str, Any]
    """The parts that made the tokens: ``tokenizer``, ``codec``, ``codebooks``, ``rate``, ..."""
    files: list[Path]
    global_codes: Lists | None = None
    """Codes of each utterance as a whole, where any has them."""
    instruct: Lists | None = None
    """Ids of the instruction that each was spoken under, where any has one."""
    prompt: Lists | None = None
    """Numbers of ids, frames and words of each one's prompt, or nothing, where any has one."""
    text_hashes: np.ndarray | None = None
    """``hash_text`` of each text, where it is known without reading it."""
    digests: Mapping[Path, str] = field(default_factory=dict)
    """SHA-256 of files, where it is known without reading them."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def codebooks(self) -> int:
        """Q."""
        return int(self.about.get("codebooks", 1))

    def sample(self, index: int) -> Sample:
        """One utterance as layouts take it."""
        frames = self.codes[index].reshape(-1, self.codebooks).tolist()
        extra = {
            name: lists[index].tolist()
            for name in EXTRA
            if (lists := getattr(self, name)) is not None
        }
        text, ends = self.text[index].tolist(), self.word_ends[index].tolist()
        lengths = () if self.prompt is None else self.prompt[index].tolist()
        if not lengths:
            return Sample(text, frames, ends, **extra)
        prompt_ids, prompt_frames, prompt_words = lengths
        prompt = Prompt(text[:prompt_ids], frames[:prompt_frames], ends[:prompt_words])
        ends = [end - prompt_frames for end in ends[prompt_words:]]
        return Sample(text[prompt_ids:], frames[prompt_frames:], ends, **extra, prompt=prompt)

    def positions(self) -> np.ndarray:
        """[N] approximate positions of every utterance: its ids, its frames, two marks.

        Codebooks may run behind each other, the last by as many frames as there are others.
        """
        count = self.text.lengths() + self.codes.lengths() // self.codebooks + 1 + self.codebooks
        for name in EXTRA:
            lists = getattr(self, name)
            count = count if lists is None else count + lists.lengths()
        return count

    def take(self, rows: np.ndarray) -> TokenCorpus:
        """The utterances ``rows`` alone."""
        return TokenCorpus(
            _taken(self.ids, rows),
            _taken(self.texts, rows),
            self.text.take(rows),
            self.codes.take(rows),
            self.word_ends.take(rows),
            self.seconds[rows],
            self.about,
            self.files,
            *(
                None if lists is None else lists.take(rows)
                for lists in (self.global_codes, self.instruct, self.prompt)
            ),
            text_hashes=None if self.text_hashes is None else self.text_hashes[rows],
            digests=self.digests,
        )

    def hashes_of_texts(self) -> np.ndarray:
        """``hash_text`` of each text, [N]."""
        if self.text_hashes is not None:
            return self.text_hashes
        return np.asarray([hash_text(text) for text in self.texts], np.uint64)


def _taken(texts: list[str] | Texts, rows: np.ndarray) -> list[str] | Texts:
    # a list has no view of some of its rows
    return [texts[row] for row in rows] if isinstance(texts, list) else texts.take(rows)


def hash_text(text: str) -> int:
    """Return the first 64 bits of a text's SHA-256."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def read_tokens(folders: str | Path | Iterable[str | Path]) -> TokenCorpus:
    """Load token data of one folder or several that were made with the same parts.

    Raises ``DataError`` when a file is no token data, when one is damaged, with file, row and
    column, or when two files disagree about what made them.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    parts: list[TokenCorpus] = []
    for file in (file for folder in folders for file in parquet_files(folder)):
        part = _read_file(file)
        if parts:
            require_equal_parts(parts[0].about, part.about, file)
        parts.append(part)
    return chained(parts, parts[0].about if parts else {})


def require_equal_parts(first: Mapping[str, Any], other: Mapping[str, Any], file: Path) -> None:
    """Raise ``DataError`` where two files of token data were made with different parts."""
    if first != other:
        raise DataError(
            f"Two files were made with different parts: {first} and {other}.",
            str(file),
            "Tokenise all of them with one system.",
        )


def chained(parts: Sequence[TokenCorpus], about: dict[str, Any]) -> TokenCorpus:
    """Several corpora in a row; a column that only some have is empty in the others."""

    def optional(name: str) -> Ragged | None:
        lists = [getattr(part, name) for part in parts]
        if all(column is None for column in lists):
            return None
        empty = [Ragged.of([()] * len(part)) for part in parts]
        return Ragged.chain([e if x is None else x for x, e in zip(lists, empty, strict=True)])

    return TokenCorpus(
        ids=[name for part in parts for name in part.ids],
        texts=[text for part in parts for text in part.texts],
        text=Ragged.chain([part.text for part in parts]),
        codes=Ragged.chain([part.codes for part in parts]),
        word_ends=Ragged.chain([part.word_ends for part in parts]),
        seconds=np.concatenate([np.empty(0, np.float32), *(part.seconds for part in parts)]),
        about=about,
        files=[file for part in parts for file in part.files],
        **{name: optional(name) for name in (*EXTRA, PROMPT)},
    )


def _read_file(file: Path) -> TokenCorpus:
    """One file, every number checked."""
    metadata = read_schema(file).metadata or {}
    if METADATA not in metadata:
        raise DataError(
            "This is not token data: it lacks its description.",
            str(file),
            "Make token data with 'wishbone data tokenize'.",
        )
    about = read_description(metadata[METADATA], file)
    table = read_table(file, COLUMNS, dict.fromkeys((*EXTRA, PROMPT), INTEGERS), do=DO)
    lists = {
        name: _ragged(name, table.column(name), file)
        for name in (*COLUMNS, *EXTRA, PROMPT)
        if name in table.column_names and COLUMNS.get(name, INTEGERS) == INTEGERS
    }
    seconds = np.asarray(table.column("seconds"), dtype=np.float32)
    check_rows(lists, seconds, int(about.get("codebooks", 1)), file)
    return TokenCorpus(
        ids=table.column("id").to_pylist(),
        texts=table.column("text").to_pylist(),
        text=lists["text_ids"],
        codes=lists["codes"],
        word_ends=lists["word_ends"],
        seconds=seconds,
        about=about,
        files=[file],
        **{name: lists.get(name) for name in (*EXTRA, PROMPT)},
    )


def _ragged(name: str, column: Any, file: Path) -> Ragged:
    """A list column; raises ``DataError`` where a number is no id and no code."""
    lists = column.combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    starts = np.cumsum(np.concatenate([np.zeros(1, np.int64), lengths]))
    flat = lists.flatten()
    values = np.asarray(flat) if len(flat) else np.empty(0, np.int32)
    check_integers(name, values, starts, file)
    return Ragged(values.astype(np.int32), starts)


def write_tokens(path: str | Path, rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write one Parquet file of token data."""
    pyarrow = arrow()
    numbers = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("text", pyarrow.string()),
            ("text_ids", numbers),
            ("codes", numbers),
            ("word_ends", numbers),
            ("seconds", pyarrow.float32()),
            ("speaker", pyarrow.string()),
            *((name, numbers) for name in (*EXTRA, PROMPT) if any(row.get(name) for row in rows)),
        ],
        metadata={METADATA: json.dumps(about, sort_keys=True)},
    )
    write_table(path, pyarrow.Table.from_pylist(list(rows), schema=schema))


def write_table(path: str | Path, table: Any) -> None:
    """Write a pyarrow table to a Parquet file that is either all there or not there."""
    with replacing(path) as temporary:
        # a flipped bit inside of a page would else be another code, without an error
        arrow().parquet.write_table(table, temporary, compression="zstd", write_page_checksum=True)
