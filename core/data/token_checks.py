"""Checks of token data when it is read: what its numbers may be, row by row.

A wrong number would train without an error, so every file is checked: a million codes take a few
milliseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.contract.errors import DataError

DO = "Make the token data again with 'wishbone data tokenize'."
MOST = 2**31 - 1
"""Largest id and code: they are held in 32 bits."""


def read_description(raw: bytes, file: Path) -> dict[str, Any]:
    """Return the parts that made a file, from its metadata; raises ``DataError``."""
    try:
        values = json.loads(raw)
        if not isinstance(values, dict):
            raise ValueError("it is no mapping")
        codebooks, rate = values.get("codebooks", 1), values.get("rate", 1)
        if not isinstance(codebooks, int) or isinstance(codebooks, bool) or codebooks < 1:
            raise ValueError(f"codebooks is {codebooks!r}")
        if not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"rate is {rate!r}")
        for name in ("tokenizer", "codec"):
            if not isinstance(values.get(name, ""), str):
                raise ValueError(f"{name} is {values[name]!r}")
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"The description of the token data cannot be read: {error}.", str(file), DO
        ) from error
    return values


def check_integers(name: str, values: np.ndarray, starts: np.ndarray, file: Path) -> None:
    """Raise ``DataError`` for a negative number or one of more than 31 bits; ``values`` are flat.

    ``starts`` [rows + 1] are the beginnings of the rows in them.
    """
    wrong = (values < 0) | (values > MOST)
    if wrong.any():
        at = int(wrong.argmax())
        _refuse(f"'{name}' holds {values[at]}", file, _row_of(at, starts))


def check_rows(columns: Mapping[str, Any], seconds: np.ndarray, books: int, file: Path) -> None:
    """Raise ``DataError`` where the columns of one row do not fit together.

    ``columns`` are ``Ragged``: codes are whole frames of ``books``, ends of words rise and stay
    inside, a prompt is three numbers inside its row.
    """
    codes = columns["codes"].lengths()
    _require(codes % books == 0, f"its codes are no whole frames of {books}", file)
    _require(np.isfinite(seconds) & (seconds >= 0), "'seconds' is no length", file)
    ends = columns["word_ends"]
    steps = np.diff(ends.values.astype(np.int64), prepend=0)
    first = ends.starts[:-1][ends.lengths() > 0]
    steps[first] = 0
    if (steps < 0).any():
        _refuse("its 'word_ends' fall", file, _row_of(int((steps < 0).argmax()), ends.starts))
    last = np.zeros(len(ends), np.int64)
    last[ends.lengths() > 0] = ends.values[ends.starts[1:][ends.lengths() > 0] - 1]
    _require(last <= codes // books, "a word of it ends behind its last code", file)
    prompt = columns.get("prompt")
    if prompt is None:
        return
    _require(np.isin(prompt.lengths(), (0, 3)), "'prompt' is not three numbers", file)
    rows = np.flatnonzero(prompt.lengths())
    limits = np.stack([columns["text_ids"].lengths(), codes // books, ends.lengths()], 1)
    inside = np.ones(len(codes), bool)
    inside[rows] = (prompt.values.reshape(-1, 3) <= limits[rows]).all(axis=1)
    _require(inside, "its 'prompt' is longer than the row", file)


def _require(fine: np.ndarray, what: str, file: Path) -> None:
    if not fine.all():
        _refuse(what, file, int((~fine).argmax()))


def _row_of(index: int, starts: np.ndarray) -> int:
    return int(np.searchsorted(starts, index, side="right")) - 1


def _refuse(what: str, file: Path, row: int) -> None:
    raise DataError(f"The token data is damaged: {what}.", f"{file}, row {row}", DO)
