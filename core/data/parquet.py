"""Parquet files, read so that a damaged one, or one of other columns, is an error with its name.

``read_table`` is the schema layer of all data: columns that must be there, their types, values that
must not be missing. What the numbers may be is checked where they are known, as in
``token_checks.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wishbone.core.contract.errors import DataError, MissingExtra

TEXT, NUMBER, INTEGER, BYTES = "a text", "a number", "a whole number", "bytes"
INTEGERS, NUMBERS, TEXTS = "whole numbers", "numbers", "texts"
"""Types of a column: one value a row, or a list of them."""
ONE_OF = {INTEGERS: INTEGER, NUMBERS: NUMBER, TEXTS: TEXT}
"""Type of a list -> that of its values."""


def arrow() -> Any:
    """The module pyarrow, its ``parquet`` and ``compute``; ``MissingExtra`` without them."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            "Reading and writing corpora needs pyarrow.",
            "wishbone.core.data",
            "Run: pip install 'wishbone-tts[train]'.",
        ) from error
    return pyarrow


@contextmanager
def damage_named(file: str | Path) -> Iterator[None]:
    """Raise ``DataError`` naming ``file`` for whatever pyarrow raises in the block."""
    try:
        yield
    except (arrow().ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"The Parquet file is damaged or cut short: {why.rstrip('.')}.",
            str(file),
            "Remove the file and repeat the command that made it.",
        ) from error


def read_schema(file: str | Path) -> Any:
    """The schema of a Parquet file; raises ``DataError``."""
    with damage_named(file):
        return arrow().parquet.read_schema(file)


def read_table(
    file: str | Path,
    columns: Mapping[str, str],
    optional: Mapping[str, str] | None = None,
    do: str = "Make the data again with 'wishbone data'.",
) -> Any:
    """Read columns of a Parquet file, those of ``optional`` where they are there.

    Both are name -> type. Values of ``columns`` may not be missing; those of ``optional`` may,
    but not inside of a list. Raises ``DataError`` with file, row and column.
    """
    optional = optional or {}
    schema = read_schema(file)
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise DataError(f"It lacks the columns {', '.join(missing)}.", str(file), do)
    names = [name for name in (*columns, *optional) if name in schema.names]
    types = {**optional, **columns}
    for name in names:
        kind = schema.field(name).type
        if schema.names.count(name) > 1 or not _fits(kind, types[name]):
            raise DataError(f"The column '{name}' holds {kind}, not {types[name]}.", str(file), do)
    with damage_named(file):
        # the file by itself: a folder's name such as 'x=1' would become a column
        opened = arrow().parquet.ParquetFile(file, page_checksum_verification=True)
        table = opened.read(columns=names)
        table.validate(full=True)
    for name in names:
        _refuse_missing(table.column(name).combine_chunks(), name, name in columns, file, do)
    return table


def _fits(kind: Any, needed: str) -> bool:
    """Return whether a column of pyarrow's type ``kind`` may be read as one of ``needed``."""
    types = arrow().types
    if needed in (INTEGERS, NUMBERS, TEXTS):
        if not (types.is_list(kind) or types.is_large_list(kind)):
            return False
        # a list that never holds anything may have no type
        return types.is_null(kind.value_type) or _fits(kind.value_type, ONE_OF[needed])
    checks = {
        TEXT: (types.is_string, types.is_large_string),
        BYTES: (types.is_binary, types.is_large_binary),
        NUMBER: (types.is_floating, types.is_integer),
        INTEGER: (types.is_integer,),
    }[needed]
    return any(check(kind) for check in checks)


def _refuse_missing(column: Any, name: str, needed: bool, file: str | Path, do: str) -> None:
    row = None
    if needed and column.null_count:
        row = column.is_null().index(True).as_py()
    elif hasattr(column, "values") and column.flatten().null_count:
        inside = column.flatten().is_null().index(True).as_py()
        ends = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).cumsum()
        row = int((ends <= inside).sum())
    if row is not None:
        raise DataError(f"A value of '{name}' is missing.", f"{file}, row {row}", do)
