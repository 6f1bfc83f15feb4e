"""Releases: folders that other projects published, which ``weights:`` may name, too.

A kind of folder is a part of kind ``release``; ``ReleaseReader`` is its contract. A codec or a
decoder knows its own files: it has the method ``load_release(folder)``.
"""

from __future__ import annotations

from pathlib import Path

from wishbone.core.registry.loader import Search, search


def find_reader(folder: str | Path) -> Search:
    """Search for the reader that knows ``folder``; one that raises is listed as failed."""
    folder = Path(folder)
    if not folder.is_dir():
        return Search(None, None, [])
    return search("release", lambda reader: reader.holds(folder))
