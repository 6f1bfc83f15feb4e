"""A table of text, and its forms: in a terminal by rich, in Markdown, and in a page's template."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wishbone.core.contract.extensions.optional import need

PIPE_WIDTH = 160
"""Columns of text that is not shown in a terminal."""
MANY, BLOCK = 9, 5
"""Columns that a table may have, and those of each part of a wider one, beside the first: cells of
"3.10, inconclusive" then fill a page of 1100 pixels."""
STYLES = {
    "better": "green", "met": "green", "varied": "dim",
    "worse": "red", "missed": "red",
    "equivalent": "cyan", "reported": "cyan",
    "inconclusive": "yellow",
}  # fmt: skip
"""Verdict -> colour in a terminal; pages have a class of its name."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head. The first column is words; numbers stand to the right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str] = ()
    """Heads of other columns of words."""
    verdicts: Sequence[str] = ()
    """A word for each row, such as "better", by which its last cell is coloured."""

    def is_words(self, column: int) -> bool:
        """Return whether the cells of a column stand to the left."""
        return column == 0 or self.head[column] in self.words

    def verdict(self, row: int) -> str:
        """Return the word of a row, or an empty string."""
        return self.verdicts[row] if self.verdicts else ""

    def blocks(self, size: int = BLOCK) -> list[Table]:
        """Part a table of many columns: its first column again before every ``size`` others."""
        if len(self.head) <= MANY:
            return [self]
        parts = []
        for start in range(1, len(self.head), size):
            places = [0, *range(start, min(start + size, len(self.head)))]
            head, *rows = ([row[i] for i in places] for row in (self.head, *self.rows))
            # verdicts colour the last cell, which is in the last part
            verdicts = self.verdicts if places[-1] == len(self.head) - 1 else ()
            title = self.title if start == 1 else ""
            parts.append(replace(self, title=title, head=head, rows=rows, verdicts=verdicts))
        return parts

    def filled(self) -> Table:
        """Return the table without its empty columns; the first one stays."""
        columns = [i for i in range(len(self.head)) if i == 0 or any(row[i] for row in self.rows)]
        head, *rows = ([row[i] for i in columns] for row in (self.head, *self.rows))
        return replace(self, head=head, rows=rows)


def show(table: Table) -> None:
    """Print a table on standard output, in parts where it has many columns.

    Raises ``MissingExtra`` without rich.
    """
    console = need("rich.console", "rich", "print tables")
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    screen = console.Console(width=width)
    for part in table.blocks(_fitting(table, screen.width)):
        screen.print(_drawing(part))


def _fitting(table: Table, width: int) -> int:
    """Columns beside the first that fit on a screen, by the widest cell: two at least."""
    columns = list(zip(*(table.head, *table.rows), strict=True))
    first, *others = (max(len(cell) for cell in column) + 2 for column in columns)
    return min(BLOCK, max(2, (width - first) // max(others, default=1)))


def _drawing(table: Table) -> Any:
    """A table as rich draws it."""
    text = need("rich.text", "rich", "print tables").Text
    drawing = need("rich.table", "rich", "print tables").Table(
        title=table.title or None, title_justify="left",
        box=need("rich.box", "rich", "print tables").SIMPLE_HEAD,
    )  # fmt: skip
    for column, head in enumerate(table.head):
        drawing.add_column(head, justify="left" if table.is_words(column) else "right")
    for number, row in enumerate(table.rows):
        *cells, last = (text(cell) for cell in row)
        last.stylize(STYLES.get(table.verdict(number), ""))
        drawing.add_row(*cells, last)
    return drawing


def markdown(table: Table) -> str:
    """Return a table of Markdown, its first column to the left and all others to the right."""
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in (table.head, *table.rows)]
    head, *lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"|{'|'.join(['---', *(['--:'] * (len(table.head) - 1))])}|"
    return "\n".join([head, rule, *lines])
