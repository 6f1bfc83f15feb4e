"""Progress on standard error: a bar in a terminal, a few lines in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from time import monotonic
from typing import TypeVar

Value = TypeVar("Value")
EVERY = 10.0
"""Seconds between the lines of a log: it shows life without filling up."""


def say(text: str) -> None:
    """Print one line on what is going on."""
    print(text, file=sys.stderr, flush=True)


def progress(values: Sequence[Value], title: str) -> Iterator[Value]:
    """Give the values one by one, with a bar in a terminal and a few lines in a log file.

    The bar is drawn by rich, which speaking does not need: without it a terminal gets the lines.
    """
    if not values:
        return
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield from _lines(values, title)
        return
    rich = import_module("rich.progress")
    columns = (
        rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(), rich.TextColumn("left"), rich.TimeRemainingColumn(),
    )  # fmt: skip
    console = import_module("rich.console").Console(stderr=True)
    with rich.Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=len(values))
        for value in values:
            yield value
            bar.advance(task)


def _lines(values: Sequence[Value], title: str) -> Iterable[Value]:
    begin = last = monotonic()
    for number, value in enumerate(values, 1):
        yield value
        if monotonic() - last > EVERY or number == len(values):
            last = monotonic()
            left = (last - begin) / number * (len(values) - number)
            soon = f", about {left:.0f} s left" if number < len(values) else ""
            say(f"{title}: {number}/{len(values)}, {last - begin:.0f} s{soon}")
