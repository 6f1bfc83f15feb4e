"""Corpora of other projects, read as they are: CosyVoice's Parquet, RWKVTTS's JSONL.

A file's columns say what it is: a format is a part of kind ``corpus``, and ``CorpusFormat`` is its
contract. Every utterance that is left out is counted with its reason, and
``train`` says so before it begins. Names and limits are those of CosyVoice
(tools/make_parquet_list.py, cosyvoice/dataset/processor.py) and of RWKVTTS
(data/utils/llm_dataset.py, utils/multiple_jsonl.py, utils/xy_data_processor.py). Where those lose
data silently, this does not: one line that is no JSON costs itself, not its file; a list of codes
that is missing is no utterance that ends at once; and a speaker's prompt is not dropped for a whole
batch at a time, every line counts with it and without it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from wishbone.core.data.properties import marks
from wishbone.core.data.tokens import METADATA, arrow
from wishbone.core.errors import DataError
from wishbone.core.plugin import Search, create, guarded, registry, search

PARQUET = b"PAR1"
"""How a Parquet file begins; CosyVoice calls its own ``parquet_000000000.tar``."""
ENDINGS = (".parquet", ".jsonl", ".tar")
ALIASES: Mapping[str, Sequence[str]] = {
    "id": ("utt", "id", "key", "utt_id", "uttid", "index"),
    "text": ("text", "txt", "transcript", "transcription"),
    "speaker": ("spk", "speaker", "spk_id", "speaker_id"),
    "instruct": ("instruct", "instruction"),
}
"""What we call a column, and what others do."""


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


class CodeColumns(CorpusFormat):
    """Rows with one column of text and one of codes, as the projects below write them."""

    global_codes: ClassVar[str] = ""
    """Column of the codes of the whole utterance."""
    prompt: ClassVar[tuple[str, str]] = ("", "")
    """Columns of what a prompt says, and of its codes."""
    channels_first: ClassVar[bool] = False
    """True where codes are [Q][T]."""

    def utterances(self, row: Mapping[str, Any], name: str) -> Iterator[Utterance]:
        """The row, and the row with its prompt before it."""
        text = _column(row, "text")
        if not _speaks(text):
            raise Unusable("without text")
        codes = next((row[n] for n in self.columns if n in row), None)
        frames = _frames(codes, self.channels_first)
        plain = Utterance(
            self,
            id=str(_column(row, "id") or name),
            text=text,
            frames=frames,
            global_codes=_whole(row.get(self.global_codes)) if self.global_codes else (),
            instruct=marks(row) if self.global_codes else str(_column(row, "instruct") or ""),
            speaker=str(_column(row, "speaker") or ""),
        )
        yield plain
        prompt_text, prompt = (row.get(column) for column in self.prompt)
        if _speaks(prompt_text) and isinstance(prompt, list) and prompt:
            yield Utterance(
                self,
                f"{plain.id}+prompt",
                text,
                [*_frames(prompt, False), *frames],
                prompt_text=prompt_text,
                speaker=plain.speaker,
            )

    def example(self) -> Mapping[str, Any]:
        """Two seconds of codes."""
        codes = [n % 7 for n in range(50)]
        row = {
            "text": "hello there",
            self.columns[0]: [codes] * 2 if self.channels_first else codes,
        }
        return row | ({self.global_codes: [1, 2, 3]} if self.global_codes else {})


class CosyVoice(CodeColumns):
    """CosyVoice's Parquet."""

    name = "CosyVoice Parquet"
    columns = ("speech_token", "speech_tokens")
    most_text = 200
    seconds = (1.0, 60.0)


class RWKVTTS(CodeColumns):
    """RWKVTTS's JSONL for CosyVoice2's codec."""

    name = "RWKVTTS JSONL"
    columns = ("tts_speech_tokens",)
    prompt = ("prompt_text", "llm_prompt_speech_token")


class ReSpark(CodeColumns):
    """ReSpark's JSONL: codes of the voice beside those in time."""

    name = "ReSpark JSONL"
    columns = ("semantic_tokens",)
    global_codes = "global_tokens"


class XY(CodeColumns):
    """RWKVTTS's JSONL of several codebooks."""

    name = "XY JSONL"
    columns = ("audio_tokens",)
    seconds = (0.0, 327.6)
    channels_first = True


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


def _speaks(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())


def _frames(value: Any, channels_first: bool) -> list[tuple[int, ...]]:
    """Codes as frames, whatever they were: one list, one list in another, or [Q][T]."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(rows, list) or not rows:
        raise Unusable("without codes")
    if not isinstance(rows[0], list):
        rows = [rows]
    elif not channels_first and len(rows) != 1:
        raise Unusable("with codes of several codebooks")
    codes = [_whole(channel) for channel in rows]
    if not codes[0]:
        raise Unusable("without codes")
    if len({len(channel) for channel in codes}) != 1:
        raise Unusable("with codebooks of different lengths")
    return list(zip(*codes, strict=True))


def _whole(value: Any) -> list[int]:
    """A list of whole numbers; floats of whole value count, as pandas makes them of ints."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(rows, list) or not all(
        isinstance(n, int | float) and not isinstance(n, bool) and float(n).is_integer()
        for n in rows
    ):
        raise Unusable("with codes that are no whole numbers")
    return [int(n) for n in rows]


def _column(row: Mapping[str, Any], name: str) -> Any:
    return next((row[other] for other in ALIASES[name] if row.get(other) is not None), None)


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
