"""Write files and folders so that a reader sees the old content or the new, never a part of it.

Everything is written beside its target under a name of its own and then renamed. A body that
raises leaves what was there before, and no temporary file.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` when the block ends.

    The folder of ``path`` is created. The temporary name is unlike any other writer's, and ends in
    ``.tmp``, so that no pattern such as ``*.parquet`` matches it.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes ``path`` when the block ends.

    ``path`` must not exist, or be an empty folder.
    """
    path = Path(path)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(complete: Path, target: Path) -> None:
    """Move the folder ``complete`` to ``target``; an older folder there is removed afterwards."""
    old = _beside(target)
    if target.exists():
        os.replace(target, old)
    os.replace(complete, target)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
