"""Text files that people write, in UTF-8 with or without a byte order mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wishbone.core.contract.errors import DataError, UsageError


def read_text(path: str | Path) -> str:
    """Return the text of a file. Raises ``UsageError`` for one that is missing or is not UTF-8."""
    path = Path(path)
    try:
        return decoded(path.read_bytes(), str(path))
    except ValueError as error:  # a name with a NUL
        raise UsageError(f"The name is none: {error}.", repr(str(path)), "Check it.") from error
    except OSError as error:
        raise UsageError(
            f"The text cannot be read: {error.strerror}.", str(path), "Check the name."
        ) from error


def decoded(data: bytes, where: str) -> str:
    """Return bytes as text. Raises ``UsageError`` with the line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"The text is not UTF-8: byte {error.object[error.start]:#04x}.",
            f"{where}:{line}",
            "Convert it, for example: iconv -f latin1 -t utf-8 OLD > NEW",
        ) from error


def read_json(path: str | Path, do: str) -> dict[str, Any]:
    """Return the mapping in a JSON file of ours.

    Raises ``DataError``, with ``do``, for a file that is missing, damaged, or no mapping.
    """
    try:
        values = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"The file is damaged: {error}.", str(path), do) from error
    if not isinstance(values, dict):
        raise DataError(f"The file holds {type(values).__name__}, no mapping.", str(path), do)
    return values
