"""Corpora of other projects, read as they are: CosyVoice's Parquet, RWKVTTS's JSONL.

A file's columns say what it is. Every utterance that is left out is counted with its reason, and
``train`` says so before it begins. Names and limits are those of CosyVoice
(tools/make_parquet_list.py, cosyvoice/dataset/processor.py) and of RWKVTTS
(data/utils/llm_dataset.py, utils/multiple_jsonl.py, utils/xy_data_processor.py). Where those lose
data silently, this does not: one line that is no JSON costs itself, not its file; a list of codes
that is missing is no utterance that ends at once; and a speaker's prompt is not dropped for a whole
batch at a time, every line counts with it and without it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.data.properties import marks
from wishbone.core.data.tokens import METADATA, arrow
from wishbone.core.errors import DataError

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


@dataclass(frozen=True)
class Format:
    """A kind of corpus."""

    name: str
    codes: Sequence[str]
    """Names of the column of codes; a file that has one of them is of this kind."""
    most_text: int
    """Ids of text above which upstream leaves an utterance out."""
    seconds: tuple[float, float]
    """Shortest and longest utterance it takes."""
    global_codes: str = ""
    """Column of the codes of the whole utterance."""
    prompt: tuple[str, str] = ("", "")
    """Columns of what a prompt says, and of its codes."""
    channels_first: bool = False
    """Whether codes are [Q][T]."""


FORMATS = (
    Format("CosyVoice Parquet", ("speech_token", "speech_tokens"), 200, (1.0, 60.0)),
    Format("RWKVTTS JSONL", ("tts_speech_tokens",), 2047, (0.0, 81.9),
           prompt=("prompt_text", "llm_prompt_speech_token")),
    Format("ReSpark JSONL", ("semantic_tokens",), 2047, (0.0, 81.9), global_codes="global_tokens"),
    Format("XY JSONL", ("audio_tokens",), 2047, (0.0, 327.6), channels_first=True),
)  # fmt: skip
"""The first whose column a file has."""


@dataclass
class Utterance:
    """One row in our terms, its text not yet ids."""

    kind: Format
    id: str
    text: str
    frames: list[tuple[int, ...]]
    global_codes: Sequence[int] = ()
    instruct: str = ""
    prompt_text: str = ""
    speaker: str = ""


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
        kind: Format | None = None
        for number, row in enumerate(_records(file), start=1):
            account.read += 1
            if not isinstance(row, dict):
                account.dropped["no JSON object"] += 1
                continue
            if kind is None:
                kind = format_of(row, file)
            try:
                yield from _interpreted(row, kind, f"{file.stem}-{number:06d}")
            except _Unusable as why:
                account.dropped[str(why)] += 1


def format_of(columns: Iterable[str], where: Path) -> Format:
    """The kind of corpus that has these columns. Raises ``DataError``."""
    columns = set(columns)
    for kind in FORMATS:
        if columns & set(kind.codes):
            return kind
    known = ", ".join(f"{name} ({kind.name})" for kind in FORMATS for name in kind.codes[:1])
    if {"audio_data", "wav", "audio"} & columns:
        do = "Make codes first: CosyVoice's tools/extract_speech_token.py, or 'data tokenize'."
    else:
        do = "Give a folder of token data, of CosyVoice's Parquet or of RWKVTTS's JSONL."
    raise DataError(
        f"No column holds codes; known are {known}, and there are {', '.join(sorted(columns))}.",
        str(where),
        do,
    )


class _Unusable(Exception):
    """Why a row is left out."""


def _interpreted(row: Mapping[str, Any], kind: Format, name: str) -> Iterator[Utterance]:
    text = _column(row, "text")
    if not isinstance(text, str) or not text.strip():
        raise _Unusable("without text")
    frames = _frames(next((row[n] for n in kind.codes if n in row), None), kind.channels_first)
    found = Utterance(
        kind,
        id=str(_column(row, "id") or name),
        text=text,
        frames=frames,
        global_codes=_whole(row.get(kind.global_codes)) if kind.global_codes else (),
        instruct=marks(row) if kind.global_codes else str(_column(row, "instruct") or ""),
        speaker=str(_column(row, "speaker") or ""),
    )
    yield found
    said, spoken = (row.get(column) for column in kind.prompt)
    if isinstance(said, str) and said.strip() and isinstance(spoken, list) and spoken:
        together = [*_frames(spoken, False), *frames]
        name = f"{found.id}+prompt"
        yield Utterance(kind, name, text, together, prompt_text=said, speaker=found.speaker)


def _frames(value: Any, channels_first: bool) -> list[tuple[int, ...]]:
    """Codes as frames, whatever they were: one list, one list in another, or [Q][T]."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(rows, list) or not rows:
        raise _Unusable("without codes")
    if not isinstance(rows[0], list):
        rows = [rows]
    elif not channels_first and len(rows) != 1:
        raise _Unusable("with codes of several codebooks")
    codes = [_whole(channel) for channel in rows]
    if not codes[0]:
        raise _Unusable("without codes")
    if len({len(channel) for channel in codes}) != 1:
        raise _Unusable("with codebooks of different lengths")
    return list(zip(*codes, strict=True))


def _whole(value: Any) -> list[int]:
    """A list of whole numbers; floats of whole value count, as pandas makes them of ints."""
    rows = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(rows, list) or not all(
        isinstance(n, int | float) and not isinstance(n, bool) and float(n).is_integer()
        for n in rows
    ):
        raise _Unusable("with codes that are no whole numbers")
    return [int(n) for n in rows]


def _column(row: Mapping[str, Any], name: str) -> Any:
    return next((row[other] for other in ALIASES[name] if row.get(other) is not None), None)


def _records(file: Path) -> Iterator[Any]:
    """Rows of a file as dictionaries; a line that is none comes as None."""
    if _begins(file) == PARQUET:
        parquet = arrow().parquet.ParquetFile(file)
        heavy = {"audio_data", "wav", "utt_embedding", "spk_embedding", "reject_speech_token"}
        columns = [name for name in parquet.schema_arrow.names if name not in heavy]
        if not columns or not any(set(kind.codes) & set(columns) for kind in FORMATS):
            format_of(parquet.schema_arrow.names, file)
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
