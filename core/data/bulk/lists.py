"""Lists of texts to speak: JSON lines, CSV, the list of seed-tts-eval, or a sentence a line.

- ``.jsonl``: objects with ``text`` and, where wanted, ``id``, ``voice``, ``seed``, or ``recording``
  with its ``transcript``;
- ``.csv``: a table with such columns;
- ``.lst``: ``NAME|TRANSCRIPT|RECORDING|TEXT``, as seed-tts-eval has it (Anastassiou et al. 2024);
- anything else: a sentence a line.

A recording's path is below the folder of the list.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.config.text_files import read_text
from wishbone.core.contract.errors import DataError

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}")
"""An item's id names its file."""
FIELDS = ("id", "text", "voice", "seed", "recording", "transcript")


@dataclass(frozen=True)
class Item:
    """A text to speak."""

    id: str
    """Its own, or its line in the list, from 0, three digits or more."""
    text: str
    voice: str = ""
    """A voice by name; "" leaves it to the command."""
    seed: int | None = None
    recording: str = ""
    """Path of the recording whose voice speaks; "" for none."""
    transcript: str = ""


def read_list(path: Path) -> list[Item]:
    """Read a list. Raises ``DataError`` naming file and line for what is no item."""
    readers = {".jsonl": _json_rows, ".csv": _table_rows, ".lst": _listed_rows}
    rows = readers.get(path.suffix.lower(), _plain_rows)(read_text(path), path)
    items, lines = [], {}
    for line, row in rows:
        item = _item(row, f"{len(items):03d}", path, line)
        if item.id in lines:
            raise _wrong(f"the id '{item.id}' is that of line {lines[item.id]}, too", path, line)
        lines[item.id] = line
        items.append(item)
    if not items:
        raise DataError("The list is empty.", str(path), "Write a text a line.")
    return items


def _item(row: Mapping[str, Any], number: str, path: Path, line: int) -> Item:
    unknown = [key for key in row if key not in FIELDS]
    if unknown:
        raise _wrong(f"'{unknown[0]}' is no field; fields are {', '.join(FIELDS)}", path, line)
    values = {key: row[key] for key in FIELDS if row.get(key) not in (None, "")}
    seed = values.pop("seed", None)
    if seed is not None:
        if isinstance(seed, str) and seed.strip().isdecimal():
            seed = int(seed)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise _wrong(f"'seed' is {seed!r}, no whole number from 0", path, line)
    for key, value in values.items():
        if not isinstance(value, str) and not (key == "id" and type(value) is int):
            raise _wrong(f"'{key}' is {value!r}, no text", path, line)
    texts = {key: str(value).strip() for key, value in values.items()}
    name = texts.get("id", number)
    if not NAME.fullmatch(name):
        raise _wrong(f"the id '{name[:60]}' cannot name a file", path, line)
    if not texts.get("text"):
        raise _wrong("there is no text", path, line)
    if texts.get("voice") and texts.get("recording"):
        raise _wrong("'voice' and 'recording' both say who speaks", path, line)
    recording = texts.get("recording", "")
    return Item(
        name,
        texts["text"],
        texts.get("voice", ""),
        seed,
        str(path.parent / recording) if recording else "",
        texts.get("transcript", ""),
    )


Rows = Iterator[tuple[int, Mapping[str, Any]]]
"""Number of a line, from 1, and its fields."""


def _json_rows(text: str, path: Path) -> Rows:
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"it is no JSON: {error}", path, line) from error
        if not isinstance(row, dict):
            raise _wrong("it is no object of fields", path, line)
        yield line, row


def _table_rows(text: str, path: Path) -> Rows:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if "text" not in (reader.fieldnames or ()):
        raise _wrong("the table has no column 'text'", path, 1)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise _wrong("it has another number of cells than the head", path, reader.line_num)
            yield reader.line_num, row
    except csv.Error as error:
        raise _wrong(f"it is no CSV: {error}", path, reader.line_num) from error


def _listed_rows(text: str, path: Path) -> Rows:
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        fields = [field.strip() for field in content.split("|")]
        if len(fields) not in (4, 5):
            raise _wrong("it is not NAME|TRANSCRIPT|RECORDING|TEXT", path, line)
        yield line, dict(zip(("id", "transcript", "recording", "text"), fields, strict=False))


def _plain_rows(text: str, path: Path) -> Rows:
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip():
            yield line, {"text": content}


def _wrong(why: str, path: Path, line: int) -> DataError:
    return DataError(f"Line {line} is no item: {why}.", f"{path}:{line}", "Correct the line.")
