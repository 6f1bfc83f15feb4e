"""``bench.html``: one file that shows a result, with verdict, charts and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wishbone.core.bench import summary
from wishbone.core.bench.records import BenchResult, ContenderResult, SuiteResult, as_data
from wishbone.core.contract.errors import MissingExtra
from wishbone.core.report import charts, html_page
from wishbone.core.report.table import Table

FILE = "bench.html"
TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class _Section:
    """One suite as the template prints it."""

    name: str
    about: str
    stopped: str
    charts: Mapping[str, str]
    """Title -> address of the image."""
    no_charts: str
    """Reason why there are none, and what to do; or empty."""
    tables: list[Table]
    absent: list[str]
    engines: list[str]


def write_page(result: BenchResult, folder: Path) -> Path:
    """Write ``bench.html`` into ``folder``."""
    return html_page.write_page(folder / FILE, TEMPLATE, context(result))


def context(result: BenchResult) -> dict[str, object]:
    """Gather everything the template prints."""
    return {
        "result": result,
        "title": ", ".join(suite.name for suite in result.suites),
        "machine": summary.machine(result),
        "versions": summary.versions(result),
        "disturbances": summary.disturbances(result),
        "suites": [_section(suite) for suite in result.suites],
        "data": json.dumps(_without_rounds(result), indent=1),
    }


def _section(suite: SuiteResult) -> _Section:
    try:
        drawings, no_charts = draw(suite), ""
    except MissingExtra as error:
        drawings, no_charts = {}, f"{error.what} {error.do}"
    tables = [summary.ratios(suite)] if suite.ratios else []
    return _Section(
        name=suite.name,
        about=suite.about,
        stopped=suite.stopped,
        charts={title: html_page.image(drawing) for title, drawing in drawings.items()},
        no_charts=no_charts,
        tables=[*tables, summary.times(suite)] if suite.rows else tables,
        absent=summary.absent_lines(suite),
        engines=[
            _engine(contender)
            for contender in suite.contenders.values()
            if contender.facts.get("engine")
        ],
    )


def _engine(contender: ContenderResult) -> str:
    facts = (contender.facts["engine"], contender.facts.get("version"))
    return f"{contender.title}: {', '.join(fact for fact in facts if fact)}"


def draw(suite: SuiteResult) -> dict[str, str]:
    """Draw the charts of a suite -> title and SVG: ratios, then the plots that it asks for."""
    drawings = _ratios(suite)
    for title, axis in suite.config.plots.items():
        if axis.startswith("across "):
            drawings |= _lines(suite, title, axis.removeprefix("across "))
        else:
            drawings |= _bars(suite, title, axis)
    return drawings


def _ratios(suite: SuiteResult) -> dict[str, str]:
    rows = [
        charts.Row(
            ratio.title,
            ratio.value,
            ratio.low,
            ratio.high,
            charts.VERDICTS[ratio.status],
            f"{ratio.value:.2f}x",
            ratio.at_least or ratio.at_most,
        )
        for ratio in suite.ratios
        if ratio.value is not None
    ]
    return {"Ratios": charts.ratios(rows, "Ratios")} if rows else {}


def _bars(suite: SuiteResult, title: str, axis: str) -> dict[str, str]:
    case, measure, factor, unit = _split_axis(axis)
    keys = list(suite.contenders)
    rows = [
        charts.Row(
            row.title,
            row.median * factor,
            row.low * factor,
            row.high * factor,
            charts.colour(keys.index(row.contender)),
            f"{summary.number(row.median * factor)} {unit}",
        )
        for row in suite.rows
        if row.case == case and row.measure == measure
    ]
    return {title: charts.bars(rows, title, unit)} if rows else {}


def _lines(suite: SuiteResult, title: str, axis: str) -> dict[str, str]:
    """Draw time, and memory where it is known, over the number in the cases' names."""
    kind, measure, factor, unit = _split_axis(axis)
    keys = list(suite.contenders)
    times: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, list[tuple[float, float]]] = {}
    colours: dict[str, str] = {}
    for row in suite.rows:
        name, _, place = row.case.partition(" ")
        if name != kind or row.measure != measure:
            continue
        colours[row.title] = charts.colour(keys.index(row.contender))
        times.setdefault(row.title, []).append((float(place), factor * row.median))
        size = suite.contenders[row.contender].memory(row.case)
        if size:
            sizes.setdefault(row.title, []).append((float(place), size / 2**20))
    plots = [charts.Plot(title, unit, kind, times, colours, powers=True)] if times else []
    if sizes:
        plots.append(
            charts.Plot("Memory", "MiB", kind, sizes, colours, powers=True, logarithmic=True)
        )
    return {
        plot.title if plot.title == title else f"Memory, {title}": charts.lines([plot], plot.title)
        for plot in plots
    }


def _split_axis(axis: str) -> tuple[str, str, float, str]:
    """Split ``case:measure`` -> case, measure ("seconds" by default), its factor and unit."""
    case, _, measure = axis.partition(":")
    measure = measure or "seconds"
    return case, measure, *summary.unit_of(measure)


def _without_rounds(result: BenchResult) -> dict[str, object]:
    """Return the result without the rounds one by one, which ``bench.json`` keeps."""
    data = as_data(result)
    for suite in data["suites"]:
        for contender in suite["contenders"].values():
            del contender["rounds"]
    return data
