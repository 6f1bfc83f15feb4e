"""One process at a part: the lock of the file that a part writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from wishbone.core.contract.errors import UsageError

PATIENCE = 5.0
"""Seconds to wait for another process at the same part: one that was lost on a cluster and is
started again elsewhere ends within a second."""


@contextmanager
def locked_part(file: Path, part: int, parts: int) -> Iterator[None]:
    """Hold the lock of ``file``, which is that of part ``part`` of ``parts``, from 1.

    Raises ``UsageError`` where another process holds it; the system frees it however that ends.
    """
    lock = FileLock(f"{file}.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise UsageError(
            f"Part {part} of {parts} is being done by another process.",
            str(file),
            "Give each process a part of its own: --part 1/2, --part 2/2.",
        ) from None
    try:
        yield
    finally:
        lock.release()
