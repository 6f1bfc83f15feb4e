"""Lists and texts that stay in a file: what is asked for is read, nothing else.

The values are read with ``pread``, not through the mapping of the file. Where a file is in the
system's cache, touching one number maps up to 2 MB around it: 2 038 utterances of 10 000 hours
brought 4.0 GB into the process, of which they themselves are 1.5 MB.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from io import FileIO
from typing import overload

import numpy as np

from wishbone.core.contract.errors import DataError


class FileValues:
    """Numbers of one kind that follow each other in a file; a slice is read when asked for."""

    def __init__(self, file: FileIO, begin: int, count: int, kind: np.dtype) -> None:
        """``file`` is shared, and closed with the last that reads from it; ``begin`` is a byte."""
        self._file, self._begin, self._count, self._kind = file, begin, count, kind

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> np.ndarray:
        """Read the numbers of a slice, [numbers]. Raises ``DataError`` where the file has ended."""
        begin, end, _ = part.indices(self._count)
        size = max(0, end - begin) * self._kind.itemsize
        content = os.pread(self._file.fileno(), size, self._begin + begin * self._kind.itemsize)
        if len(content) < size:
            raise DataError(
                f"The file ends {size - len(content)} bytes early: it was cut while it was read.",
                str(self._file.name),
                "Start again with the whole file; 'wishbone data gather' writes it anew.",
            )
        return np.frombuffer(content, self._kind)


Values = np.ndarray | FileValues


class FileLists:
    """Lists of integers in several pieces, each in memory or in a file.

    It is what ``Ragged`` is for lists that are in memory; ``rows`` chooses some of them.
    """

    def __init__(
        self,
        pieces: Sequence[tuple[Values, np.ndarray]],
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

    def take(self, rows: np.ndarray) -> FileLists:
        """The lists ``rows`` alone, not copied."""
        chosen = rows if self.rows is None else self.rows[rows]
        return FileLists(self.pieces, self._highest, chosen)

    def highest(self) -> int:
        """The largest value, -1 where there is none; that of all lists, also of those not taken."""
        return self._highest

    def row_of(self, value: int) -> int:
        """Return the first list that holds ``value``; -1 where none of those taken does."""
        return next((row for row in range(len(self)) if (self[row] == value).any()), -1)


class EncodedTexts:
    """Texts as the bytes of a file, in UTF-8: text i is ``content[starts[i] : starts[i + 1]]``."""

    def __init__(self, content: FileValues, starts: np.ndarray) -> None:
        """``starts`` are [texts + 1]."""
        self._content, self._starts = content, starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> str:
        return self._content[self._starts[index] : self._starts[index + 1]].tobytes().decode()


class FileTexts(Sequence[str]):
    """Texts in several pieces, each in memory or in a file; ``rows`` chooses some of them."""

    def __init__(
        self, pieces: Sequence[EncodedTexts | Sequence[str]], rows: np.ndarray | None = None
    ) -> None:
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
        return self.pieces[piece][row - self.first[piece]]

    def take(self, rows: np.ndarray) -> FileTexts:
        """The texts ``rows`` alone, not copied."""
        return FileTexts(self.pieces, rows if self.rows is None else self.rows[rows])
