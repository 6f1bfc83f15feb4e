"""One HTML file that shows a result: verdict, plots, tables; it loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from wishbone.core.bench.terminal import (
    HEADS,
    RATIO_HEADS,
    absent_lines,
    filled,
    notes,
    number,
    ratio_cells,
    row_cells,
    unit_of,
)
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import MissingExtra
from wishbone.core.report import charts

FILE = "bench.html"


def write_page(result: Mapping[str, Any], folder: Path) -> Path:
    """Write ``bench.html`` into ``folder``."""
    path = folder / FILE
    write_text(path, page(result))
    return path


def page(result: Mapping[str, Any]) -> str:
    """The text of the page."""
    template = resources.files("wishbone.core.bench").joinpath("page.html")
    quick = (
        '<p class="warn">A sanity run (--quick) with tiny sizes: nothing follows from these'
        " times.</p>"
    )
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=escape(", ".join(suite["name"] for suite in result["suites"])),
        began=escape(result["began"]),
        warning=quick if result["quick"] else "",
        outcome=escape(result["outcome"]),
        verdict=escape(result["verdict"]),
        machine=escape(" · ".join([notes(result)[0], *notes(result)[2:]])),
        suites="\n".join(_suite(suite) for suite in result["suites"]),
        versions=escape(notes(result)[1]),
        command=escape(result["command"]),
        data=escape(json.dumps(_settings(result), indent=1)),
    )


def _suite(suite: Mapping[str, Any]) -> str:
    parts = [f"<h2>{escape(suite['name'])}</h2>", f"<p>{escape(suite['about'])}</p>"]
    if suite["stopped"]:
        parts.append(f'<p class="warn">Stopped: {escape(suite["stopped"])}.</p>')
    parts += _charts(suite)
    if suite["ratios"]:
        rows = [ratio_cells(claim) for claim in suite["ratios"]]
        marks = [claim["status"] for claim in suite["ratios"]]
        parts.append(_table(RATIO_HEADS, rows, marks))
    if suite["rows"]:
        parts.append(_table(HEADS, [row_cells(row, suite) for row in suite["rows"]]))
    if absent_lines(suite):
        items = "".join(f"<li>{escape(line)}</li>" for line in absent_lines(suite))
        parts.append(f'<ul class="small">{items}</ul>')
    engines = [
        f"{each['title']}: {each['facts']['engine']}, {each['facts'].get('version', '')}"
        for each in suite["contenders"].values()
        if each["facts"].get("engine")
    ]
    parts.append(f'<p class="soft small">{escape(" · ".join(engines))}</p>')
    return "\n".join(parts)


def _charts(suite: Mapping[str, Any]) -> list[str]:
    """The suite's charts as images, or a line that says what they need."""
    try:
        drawn = [*_ratios(suite), *_plots(suite)]
    except MissingExtra as error:
        return [f'<p class="warn">There are no charts. {escape(f"{error.what} {error.do}")}</p>']
    return [
        f'<div class="plot"><img src="{charts.data_url("image/svg+xml", drawing.encode())}"'
        f' alt="{escape(title)}"></div>'
        for title, drawing in drawn
    ]


def _ratios(suite: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        charts.Row(
            ratio["title"],
            ratio["value"],
            ratio["low"],
            ratio["high"],
            charts.VERDICTS[ratio["status"]],
            f"{ratio['value']:.2f}x",
            ratio["at_least"] or ratio["at_most"],
        )
        for ratio in suite["ratios"]
        if ratio["status"] != "not measured"
    ]
    return [("Ratios", charts.ratios(rows, "Ratios"))] if rows else []


def _plots(suite: Mapping[str, Any]) -> list[tuple[str, str]]:
    drawn = []
    for title, what in suite["config"]["plots"].items():
        if what.startswith("across "):
            drawn += _lines(suite, title, what.removeprefix("across "))
        else:
            drawn += _bars(suite, title, what)
    return drawn


def _bars(suite: Mapping[str, Any], title: str, case: str) -> list[tuple[str, str]]:
    case, measure, factor, unit = _axis(case)
    keys = list(suite["contenders"])
    rows = [
        charts.Row(
            row["title"],
            row["median"] * factor,
            row["low"] * factor,
            row["high"] * factor,
            charts.colour(keys.index(row["contender"])),
            f"{number(row['median'] * factor)} {unit}",
        )
        for row in suite["rows"]
        if row["case"] == case and row["measure"] == measure
    ]
    return [(title, charts.bars(rows, title, unit))] if rows else []


def _lines(suite: Mapping[str, Any], title: str, kind: str) -> list[tuple[str, str]]:
    """Time, and memory where it is known, over the number in the cases' names."""
    kind, measure, factor, unit = _axis(kind)
    keys = list(suite["contenders"])
    times: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, list[tuple[float, float]]] = {}
    colours: dict[str, str] = {}
    for row in suite["rows"]:
        name, _, place = row["case"].partition(" ")
        if name != kind or row["measure"] != measure:
            continue
        colours[row["title"]] = charts.colour(keys.index(row["contender"]))
        times.setdefault(row["title"], []).append((float(place), factor * row["median"]))
        facts = suite["contenders"][row["contender"]]["cases"].get(row["case"], {})
        size = facts.get("state_bytes") or facts.get("peak_bytes")
        if size:
            sizes.setdefault(row["title"], []).append((float(place), size / 2**20))
    plots = [charts.Plot(title, unit, kind, times, colours, powers=True)] if times else []
    if sizes:
        plots.append(
            charts.Plot("Memory", "MiB", kind, sizes, colours, powers=True, logarithmic=True)
        )
    return [(plot.title, charts.lines([plot], plot.title)) for plot in plots]


def _axis(text: str) -> tuple[str, str, float, str]:
    """``case:measure`` -> case, measure (seconds where none is named), its factor and unit."""
    case, _, measure = text.partition(":")
    measure = measure or "seconds"
    return case, measure, *unit_of(measure)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], marks: Sequence[str] = ()) -> str:
    """A table without its empty columns; ``marks`` are classes of the rows' last cells."""
    cells = filled(heads, rows)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in cells[0])
    body = ""
    for row, mark in zip(cells[1:], marks or [""] * len(rows), strict=True):
        *first, last = [escape(cell) for cell in row]
        columns = [*(f"<td>{cell}</td>" for cell in first), f'<td class="{mark}">{last}</td>']
        body += f"<tr>{''.join(columns)}</tr>"
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result without the rounds one by one, which ``bench.json`` keeps."""
    suites = []
    for suite in result["suites"]:
        each = {
            key: {name: value for name, value in c.items() if name != "rounds"}
            for key, c in suite["contenders"].items()
        }
        suites.append({**suite, "contenders": each})
    return {**result, "suites": suites}
