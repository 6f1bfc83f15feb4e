"""Folders that others published, which ``weights:`` may name as it names one of ours.

A kind of folder is a part of kind ``release``; ``ReleaseReader`` is its contract. A codec or a
decoder knows its own files: it has the method ``load_release(folder)``.
"""

from __future__ import annotations

from pathlib import Path

from wishbone.core.registry.loader import Search, search


def find_reader(folder: str | Path) -> Search:
    """Ask who knows this folder; a reader that raises is passed over and listed as failed."""
    folder = Path(folder)
    if not folder.is_dir():
        return Search(None, None, [])
    return search("release", lambda reader: reader.holds(folder))
