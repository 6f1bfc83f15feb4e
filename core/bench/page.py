"""One HTML file that shows a result: verdict, plots, tables; it loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from wishbone.core.atomic import write_text
from wishbone.core.bench import plots
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
        colours=_colours(),
    )


def _suite(suite: Mapping[str, Any]) -> str:
    parts = [f"<h2>{escape(suite['name'])}</h2>", f"<p>{escape(suite['about'])}</p>"]
    if suite["stopped"]:
        parts.append(f'<p class="warn">Stopped: {escape(suite["stopped"])}.</p>')
    drawn = [*_claims(suite), *_plots(suite)]
    parts += [f'<div class="plot">{picture}</div>' for picture in drawn]
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


def _claims(suite: Mapping[str, Any]) -> list[str]:
    rows = [
        {
            "label": claim["title"],
            "status": claim["status"],
            **{name: claim[name] for name in ("value", "low", "high")},
            "mark": claim["at_least"] or claim["at_most"],
        }
        for claim in suite["ratios"]
        if claim["status"] != "not measured"
    ]
    return [plots.claims(rows, "Ratios")] if rows else []


def _plots(suite: Mapping[str, Any]) -> list[str]:
    made = []
    for title, what in suite["config"]["plots"].items():
        if what.startswith("across "):
            made += _lines(suite, title, what.removeprefix("across "))
        else:
            made += _bars(suite, title, what)
    return made


def _bars(suite: Mapping[str, Any], title: str, case: str) -> list[str]:
    case, measure, factor, unit = _axis(case)
    keys = list(suite["contenders"])
    rows = [
        {
            "label": row["title"],
            "value": row["median"] * factor,
            "low": row["low"] * factor,
            "high": row["high"] * factor,
            "text": f"{number(row['median'] * factor)} {unit}",
            "colour": plots.SERIES[keys.index(row["contender"]) % len(plots.SERIES)],
        }
        for row in suite["rows"]
        if row["case"] == case and row["measure"] == measure
    ]
    return [plots.bars(rows, title, unit)] if rows else []


def _lines(suite: Mapping[str, Any], title: str, kind: str) -> list[str]:
    """Time, and memory where it is known, over the number in the cases' names."""
    kind, measure, factor, unit = _axis(kind)
    times: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, list[tuple[float, float]]] = {}
    for row in suite["rows"]:
        name, _, place = row["case"].partition(" ")
        if name != kind or row["measure"] != measure:
            continue
        times.setdefault(row["title"], []).append((float(place), factor * row["median"]))
        facts = suite["contenders"][row["contender"]]["cases"].get(row["case"], {})
        size = facts.get("state_bytes") or facts.get("peak_bytes")
        if size:
            sizes.setdefault(row["title"], []).append((float(place), size / 2**20))
    made = [plots.lines(times, title, unit, kind)] if times else []
    if sizes:
        made.append(plots.lines(sizes, "Memory", "MiB", kind, logarithmic=True))
    return made


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


def _colours() -> str:
    return "\n".join(
        f"svg .bar.{name}, svg .point.{name}, svg .label.{name} {{ fill: var(--{name}); }}"
        f" svg .line.{name} {{ stroke: var(--{name}); }}"
        for name in plots.SERIES
    )
