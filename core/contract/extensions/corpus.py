"""The contract of a corpus format: rows of another project's files as utterances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class Unusable(Exception):
    """Raised for a row that cannot be used; the message completes "left out: 12 ..."."""


class CorpusFormat(ABC):
    """The contract of a corpus format: rows of Parquet files, or of JSON lines, to utterances.

    Made without arguments.
    """

    name: ClassVar[str]
    """Name of the format, for people."""
    columns: ClassVar[Sequence[str]]
    """A file with one of these columns is of this format; Wishbone's formats are asked first."""
    most_text: ClassVar[int] = 2047
    """Ids of text above which an utterance is left out."""
    unread: ClassVar[Sequence[str]] = ()
    """Columns of Parquet files that ``utterances`` has no use for, such as the recordings: they are
    not read."""
    seconds: ClassVar[tuple[float, float]] = (0.0, 81.9)
    """Shortest and longest utterance that is not left out."""

    @abstractmethod
    def utterances(self, row: Mapping[str, Any], name: str) -> Iterator[Utterance]:
        """Yield the utterances of one row, in order. Raises ``Unusable`` with the reason only.

        Values may be missing, None or of any type. ``name`` identifies a row without a name.
        """

    def example(self) -> Mapping[str, Any] | None:
        """Return a small usable row for the contract suite, None without one."""
        return None


@dataclass
class Utterance:
    """One utterance of a corpus: a transcript, not yet ids, and codes."""

    kind: CorpusFormat
    """The format that it was read by."""
    id: str
    """Name, unique in the corpus where the corpus has names."""
    text: str
    """Transcript."""
    frames: list[tuple[int, ...]]
    """Codes [T][Q]."""
    global_codes: Sequence[int] = ()
    """Codes [G] of the utterance as a whole, where the codec has them."""
    instruct: str = ""
    """Instruction under which it was spoken."""
    prompt_text: str = ""
    """Transcript of speech in front of it, of the same speaker."""
    speaker: str = ""
    """Name of the speaker; "" where it is not known."""
