"""The contract of a corpus format: rows of another project's files as utterances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class Unusable(Exception):
    """A row cannot be used; the message completes "left out: 12 ..." and is counted."""


class CorpusFormat(ABC):
    """The contract of a kind of corpus: rows of Parquet files, or of JSON lines, to utterances.

    Made without arguments.
    """

    name: ClassVar[str]
    """For people."""
    columns: ClassVar[Sequence[str]]
    """A file that has one of these is of this kind; where two kinds claim it, Wishbone's is."""
    most_text: ClassVar[int] = 2047
    """Ids of text above which an utterance is left out."""
    unread: ClassVar[Sequence[str]] = ()
    """Columns of Parquet files that ``utterances`` has no use for, such as the recordings: they are
    not read."""
    seconds: ClassVar[tuple[float, float]] = (0.0, 81.9)
    """Shortest and longest utterance that is taken."""

    @abstractmethod
    def utterances(self, row: Mapping[str, Any], name: str) -> Iterator[Utterance]:
        """What can be used of one row, in order. Raises ``Unusable`` with the reason, nothing else.

        Values may be missing, None or of any type. ``name`` is a name for a row without one.
        """

    def example(self) -> Mapping[str, Any] | None:
        """A small row that can be used, for the contract suite; None where none is offered."""
        return None


@dataclass
class Utterance:
    """One row in our terms, its text not yet ids."""

    kind: CorpusFormat
    id: str
    text: str
    frames: list[tuple[int, ...]]
    """Codes [T][Q]."""
    global_codes: Sequence[int] = ()
    instruct: str = ""
    prompt_text: str = ""
    speaker: str = ""
