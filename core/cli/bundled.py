"""Lists of bundled files for ``--help``: each with the first sentence that it says of itself.

They are read as text, because YAML takes a tenth of a second to import and help has to be quick.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

WIDEST = 100
"""Columns of help on a wide terminal."""


def listing(title: str, folder: str, extra: Sequence[str] = ()) -> str:
    """Make a list of the YAML files in ``configs/folder``, with ``extra`` lines below it."""
    files = sorted(
        Path(str(resources.files("wishbone.configs"))).joinpath(folder).glob("*.yaml"),
        # what a newcomer runs first comes first
        key=lambda path: (not path.stem.startswith("quickstart"), path.stem),
    )
    lines = two_columns([(path.stem, first_sentence(path.read_text("utf-8"))) for path in files])
    return "\n".join([f"{title}:", *lines, *extra])


def first_sentence(text: str) -> str:
    """Return the first sentence of a file's ``about:``, or of the comment that it begins with."""
    lines = text.splitlines()
    if lines and lines[0].startswith("about:"):
        block = [lines[0].removeprefix("about:").strip(" >-"), *_while_indented(lines[1:])]
    elif lines and lines[0].startswith("base:"):
        return f"The same as {lines[0].removeprefix('base:').strip()}, with a few changes."
    else:
        block = _comment(lines)
    paragraph = " ".join(line.strip() for line in block).strip()
    sentence = re.match(r".+?[.?;](?=\s|$)", paragraph)
    short = (sentence[0] if sentence else paragraph).rstrip(":;.,")
    return short if short.endswith("?") else f"{short}."


def two_columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Make lines of a name and the text about it, which goes on below itself."""
    widest = max((len(name) for name, _ in rows), default=0) + 4
    width = min(shutil.get_terminal_size().columns, WIDEST) - 2
    lines: list[str] = []
    for name, text in rows:
        hanging = " " * widest
        head = f"  {name}".ljust(widest)
        lines += textwrap.wrap(
            text, width, initial_indent=head, subsequent_indent=hanging, break_on_hyphens=False
        )
    return lines


def _while_indented(lines: Sequence[str]) -> list[str]:
    count = next((n for n, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return list(lines[:count])


def _comment(lines: Sequence[str]) -> list[str]:
    """Return the lines of the first comment, up to the first indented one, which is a command."""
    block: list[str] = []
    for line in lines:
        if not line.startswith("# ") or line.startswith("#  "):
            break
        block.append(line.removeprefix("# "))
    return block
