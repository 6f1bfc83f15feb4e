"""``wishbone data text``: sentences to token data without speech, for models of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from wishbone.core.config.text_files import read_text
from wishbone.core.contract.errors import DataError
from wishbone.core.data.shards import Report, ShardReport
from wishbone.core.data.tokens import parquet_files, read_tokens, write_tokens
from wishbone.core.system import text_system
from wishbone.core.system.build import build_layout

SHARD = 20_000
"""Lines of one file."""
CODEC = "text"
"""Name of the codec in token data without speech."""


def write(
    sentences: str | Path,
    out: str | Path,
    system: str,
    overrides: Sequence[str] = (),
    *,
    exclude: Iterable[str | Path] = (),
    start: int = 0,
    count: int = 0,
) -> Report:
    """Write the lines of a file as ids of ``system``'s tokenizer into the folder ``out``.

    ``exclude`` are files of sentences, one a line, and token data, whose texts must not be in it;
    texts with the same ids count as the same, and a text is taken once. ``start`` and ``count``
    choose lines, counted from 0; 0 means all. Goes on where an earlier call stopped. Raises
    ``DataError`` when nothing is left.
    """
    config = text_system.read(system, overrides)
    tokenizer, _, _ = build_layout(config)
    source, out, exclude = Path(sentences), Path(out), [Path(file) for file in exclude]
    content = read_text(source)
    lines = content.splitlines()
    end = start + count if count else len(lines)
    about = {"tokenizer": config["tokenizer"]["name"], "codec": CODEC, "codebooks": 1}
    excluded = "".join(f"{file.name} {_digest(file)} " for file in exclude)
    settings = about | {
        "source": sha256(content.encode()).hexdigest()[:16],
        "lines": [start, end],
        "exclude": excluded,
    }
    report = Report(out, settings)
    taken_ids = {tuple(tokenizer.encode(text)) for file in exclude for text in _texts(file)}
    for begin in range(start, min(end, len(lines)), SHARD):
        name = f"{begin:08d}"
        shard, rows = ShardReport(name), []
        for number in range(begin, min(begin + SHARD, end, len(lines))):
            text, identity = lines[number].strip(), f"{number:08d}"
            ids = tuple(tokenizer.encode(text))
            if not ids:
                shard.drop(identity, text, "nothing in it has an id")
            elif ids in taken_ids:
                shard.drop(identity, text, "excluded, or there already")
            else:
                taken_ids.add(ids)
                rows.append(_row(identity, text, ids))
        shard.kept = len(rows)
        if not report.done(name):
            write_tokens(out / f"{name}.parquet", rows, about)
            report.add(shard)
    if not report.total()["kept"]:
        raise DataError("No line of the file is left.", str(source), "Exclude less.")
    return report


def _row(identity: str, text: str, ids: Sequence[int]) -> dict[str, Any]:
    return {
        "id": identity,
        "text": text,
        "text_ids": list(ids),
        "codes": [],
        "word_ends": [],
        "seconds": 0.0,
        "speaker": "",
    }


def _texts(file: Path) -> Iterator[str]:
    """Sentences of a text file or of token data."""
    if file.suffix == ".parquet" or file.is_dir():
        yield from read_tokens(file).texts
    else:
        yield from read_text(file).splitlines()


def _digest(file: Path) -> str:
    files = parquet_files(file) if file.is_dir() else [file]
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
