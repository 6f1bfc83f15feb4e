"""Write files and folders so that a reader sees the old content or the new, never a part of it.

Everything is written beside its target under a name of its own and then renamed. A body that
raises leaves what was there before, and no temporary file. A process that is killed may leave one;
its name says which process, and the next one that writes into the folder removes it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from zlib import crc32

_TEMPORARY = re.compile(r"\..+\.(\d+)-([0-9a-f]{8})-[0-9a-f]{12}\.tmp")
"""Name of an unfinished file or folder: its target's, process and machine of the writer, chance."""
_swept: set[Path] = set()
"""Folders that this process has cleared of what killed processes left."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` when the block ends.

    The folder of ``path`` is created. The temporary name is unlike any other writer's, and ends in
    ``.tmp``, so that no pattern such as ``*.parquet`` matches it.
    """
    path = Path(path)
    temporary = _beside(path)
    # libraries that write the file say less about a folder that takes none than this does
    temporary.touch()
    temporary.unlink()
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_in_folder(path: str | Path) -> Iterator[Path]:
    """As ``replacing``, for a library that writes to names of its own beside the file."""
    path = Path(path)
    with scratch_folder(path) as folder:
        yield folder / path.name
        os.replace(folder / path.name, path)


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
    with scratch_folder(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextmanager
def scratch_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` for unfinished files, removed when the block ends."""
    temporary = _beside(Path(path))
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(complete: Path, target: Path) -> None:
    """Move the folder ``complete`` to ``target``; an older folder there is removed afterwards."""
    old = _beside(target)
    if target.exists():
        os.replace(target, old)
    os.replace(complete, target)
    shutil.rmtree(old, ignore_errors=True)


def contents(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, without unfinished files; [] where there is no folder."""
    if not folder.exists():
        return []
    return sorted(path for path in folder.iterdir() if not _TEMPORARY.fullmatch(path.name))


def process_lives(number: int) -> bool:
    """Return whether a process of this machine still runs; true where that cannot be known."""
    if os.name != "posix":
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _beside(path: Path) -> Path:
    """Return a name for something unfinished; what killed processes left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    # names have 255 bytes at most, of which the rest takes less than 60
    name = path.name.encode()[:190].decode(errors="ignore")
    return path.with_name(f".{name}.{os.getpid()}-{_machine()}-{secrets.token_hex(6)}.tmp")


def _sweep(folder: Path) -> None:
    """Remove unfinished files of processes that no longer run, once for each folder."""
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    for entry in os.scandir(folder):
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or match[2] != _machine() or process_lives(int(match[1])):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


@cache
def _machine() -> str:
    """Return eight digits for this machine, because others may write into the same folder."""
    return f"{crc32(socket.gethostname().encode()):08x}"
