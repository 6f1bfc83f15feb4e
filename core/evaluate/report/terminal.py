"""What an A/B says in the terminal: progress while it runs, one table at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, TypeVar

from wishbone.core.evaluate.report import tables
from wishbone.core.evaluate.report.wording import cell, change, closing, interval, settle

Value = TypeVar("Value")
COLOURS = {"better": "green", "worse": "red", "equivalent": "cyan", "inconclusive": "yellow"}


def say(text: str) -> None:
    """One line of what is going on."""
    print(text, file=sys.stderr, flush=True)


def progress(values: Sequence[Value], what: str) -> Iterator[Value]:
    """The values one by one, with a bar in a terminal and a few lines in a log file."""
    if not values:
        return
    if not sys.stderr.isatty():
        yield from _lines(values, what)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=len(values))
        for value in values:
            yield value
            bar.advance(task)


def _lines(values: Sequence[Value], what: str) -> Iterable[Value]:
    begin = last = monotonic()
    for number, value in enumerate(values, 1):
        yield value
        # a line every ten seconds, so that a log shows life without filling up
        if monotonic() - last > 10 or number == len(values):
            last = monotonic()
            say(f"{what}: {number}/{len(values)}, {last - begin:.0f} s")


def show(result: dict[str, Any]) -> None:
    """The tables of a result on standard output."""
    from rich.console import Console
    from rich.table import Table

    from wishbone.core.evaluate.experiment.budget import rows as budget_rows

    console = Console(width=None if sys.stdout.isatty() else 120)
    names = [arm["key"] for arm in result["arms"]]
    sizes = Table(title="Budget", title_justify="left")
    sizes.add_column("")
    for name in names:
        sizes.add_column(name, justify="right")
    for title, cells in budget_rows([result["budget"][name] for name in names]):
        sizes.add_row(title, *cells)
    console.print(sizes)
    for each in [tables.cells(result), tables.effects(result)] if result["factors"] else []:
        console.print(_plain(each, Table))
    # with factors, single arms are in the report
    for other in names[1:] if not result["factors"] else ():
        console.print(_comparison(result, other, Table))
    for line in closing(result):
        console.print(line, markup=False, highlight=False)


def _plain(table: Any, table_class: Any) -> Any:
    made = table_class(title=table.title, title_justify="left")
    for number, head in enumerate(table.head):
        made.add_column(head, justify="left" if number < 2 else "right")
    for row in table.rows:
        made.add_row(*row)
    return made


def _comparison(result: dict[str, Any], other: str, table_class: Any) -> Any:
    baseline = result["arms"][0]["key"]
    reference = result["reference"]
    table = table_class(title=f"{other} compared with {baseline}", title_justify="left")
    heads = ["", *(["reference"] if reference else []), baseline, other, "change", "95 % interval"]
    for head in [*heads, "p"]:
        table.add_column(head, justify="left" if not head else "right")
    table.add_column("verdict")
    for each in result["comparisons"]:
        if each["arm"] != other:
            continue
        metric = result["metrics"][each["metric"]]
        shown = reference.get(each["metric"], {}).get("value")
        colour = COLOURS.get(each["verdict"], "default")
        table.add_row(
            f"{metric['title']} ({metric['unit']})",
            *([cell(shown, metric)] if reference else []),
            cell(each["value_baseline"], metric),
            cell(each["value"], metric),
            change(each, metric),
            interval(each, metric),
            f"{each['p']:.3f}",
            f"[{colour}]{each['verdict']}[/]{settle(each, metric)}",
        )
    return table
