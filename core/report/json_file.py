"""JSON files that a person can read: a line for each key, short lists in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from wishbone.core.contract.atomic import write_text


def as_text(data: Any) -> str:
    """Return JSON with a line for each key, lists of plain values in one line each."""
    text = json.dumps(data, indent=1, ensure_ascii=False)

    def one_line(match: re.Match[str]) -> str:
        return re.sub(r"\n\s*", " ", match[0]).replace("[ ", "[", 1)[:-2] + "]"

    # a line break inside a string is written as \n, so these are the lists' own
    return re.sub(r"\[\n[^\[\]{}]*\n\s*\]", one_line, text) + "\n"


def write_json(path: Path, data: Any) -> Path:
    """Write ``data`` as JSON and return the path."""
    write_text(path, as_text(data))
    return path
