"""A result in tables and sentences: the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping

from wishbone.core.bench.records import BenchResult, ContenderResult, RatioResult, Row, SuiteResult
from wishbone.core.report import table
from wishbone.core.report.table import Table

UNITS = {
    "seconds": (1000.0, "ms"),
    "rtf": (1.0, "s per s of sound"),
    "first_audio": (1000.0, "ms"),
    "work": (1.0, "s per s of sound"),
    "first_work": (1000.0, "ms"),
    "language_model": (1.0, "s per s of sound"),
    "flow": (1.0, "s per s of sound"),
    "vocoder": (1.0, "s per s of sound"),
    "streams": (1.0, "streams"),
}
"""Measure -> factor and unit in which people read it."""
MEASURES = {
    "rtf": "time", "work": "processor time",
    "first_audio": "first sound", "first_work": "processor time to the first sound",
    "language_model": "of it the language model", "flow": "of it the flow",
    "vocoder": "of it the vocoder",
}  # fmt: skip
"""Measure -> its name behind a case that has several."""
UNSTEADY = 0.15
"""Share by which the speed of memory may vary from round to round without a remark."""
TIMES_HEAD = (
    "contender", "case", "median", "quartiles", "positions/s", "of limit", "memory", "differs by",
    "busy",
)  # fmt: skip
RATIOS_HEAD = ("ratio", "value", "interval", "asked", "stretch", "outcome")


def show(result: BenchResult) -> None:
    """Print all suites on standard output; the verdict is the last line."""
    for suite in result.suites:
        print(f"\n{suite.name}: {suite.about}")
        table.show(times(suite))
        for line in absent_lines(suite):
            print(line)
        if suite.ratios:
            table.show(ratios(suite))
    for line in (machine(result), versions(result), *disturbances(result), result.verdict):
        print(line)


def times(suite: SuiteResult) -> Table:
    """Tabulate every contender's measures."""
    rows = [_time_cells(row, suite.contenders[row.contender]) for row in suite.rows]
    return Table("", TIMES_HEAD, rows, words=("case",)).filled()


def ratios(suite: SuiteResult) -> Table:
    """Tabulate the claims of a suite."""
    rows = [_ratio_cells(ratio) for ratio in suite.ratios]
    verdicts = [ratio.status for ratio in suite.ratios]
    return Table("", RATIOS_HEAD, rows, words=("asked", "outcome"), verdicts=verdicts).filled()


def unit_of(measure: str) -> tuple[float, str]:
    """Return the factor and the unit in which people read a measure."""
    return UNITS.get(measure, (1.0, measure))


def number(value: float) -> str:
    """Write a number with three significant digits."""
    return f"{value:.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _time_cells(row: Row, contender: ContenderResult) -> list[str]:
    factor, unit = unit_of(row.measure)
    return [
        row.title,
        " ".join((row.case, MEASURES.get(row.measure, ""))).rstrip(),
        f"{number(row.median * factor)} {unit}",
        f"{number(row.low * factor)} to {number(row.high * factor)}",
        _rate(row),
        f"{100 * row.share_of_limit:.0f} %" if row.share_of_limit else "",
        _bytes(contender.memory(row.case)),
        ", ".join(f"{off:.0e}" for off in contender.difference.values()),
        f"{100 * row.busy:.0f} %",
    ]


def _rate(row: Row) -> str:
    """Write positions per second, or gigabytes of what moves bytes."""
    if row.positions_per_second:
        return f"{row.positions_per_second:.1f}"
    return f"{row.bytes_per_second / 1e9:.1f} GB/s" if row.bytes_per_second else ""


def _bytes(size: int) -> str:
    unit, name = (2**20, "MiB") if size >= 2**20 else (2**10, "KiB")
    return f"{size / unit:.1f} {name}" if size else ""


def _ratio_cells(ratio: RatioResult) -> list[str]:
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return [ratio.title, "", "", ratio.requirement, "", f"not measured ({ratio.why or ''})"]
    reached = " reached" if ratio.reached else ""
    doubt = "" if ratio.sure or ratio.status == "reported" else ", interval on both sides"
    return [
        ratio.title,
        f"{ratio.value:.2f}x",
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        ratio.requirement,
        f"{ratio.stretch:g}x{reached}" if ratio.stretch is not None else "",
        ratio.status + doubt,
    ]


def absent_lines(suite: SuiteResult) -> list[str]:
    """Name the contenders that did not take part to the end, or not in every case, and why."""
    lines = []
    for contender in suite.contenders.values():
        if contender.status != "measured":
            lines.append(f"{contender.title}: {contender.status}, {contender.why}")
        for case, facts in contender.cases.items():
            if "left_out" in facts:
                lines.append(f"{contender.title}: {case} left out, {facts['left_out']}")
    return lines


def machine(result: BenchResult) -> str:
    """Describe the machine, the threads and the load."""
    facts: Mapping[str, object] = result.machine
    loads = [load for suite in result.suites for load in suite.loads]
    load = f"load {min(loads):.1f} to {max(loads):.1f}" if loads else "nothing timed"
    threads = ", ".join(map(str, sorted({suite.config.threads for suite in result.suites})))
    parts = [facts["processor"], f"{facts['cores']} cores", f"threads {threads}", load]
    return ", ".join(str(part) for part in (*parts, facts["gpu"]) if part)


def versions(result: BenchResult) -> str:
    """List the versions of everything that took part."""
    return ", ".join(f"{name} {version}" for name, version in result.versions.items())


def disturbances(result: BenchResult) -> list[str]:
    """Tell what other work did to the measurement."""
    lines = []
    for suite in result.suites:
        read = suite.limits.get("read")
        if read and read.most - read.least > UNSTEADY * read.median:
            lines.append(
                f"{suite.name}: reading memory gave {read.least / 1e9:.0f} to"
                f" {read.most / 1e9:.0f} GB/s from round to round; others were using it."
            )
    busy = [row.busy for suite in result.suites for row in suite.rows]
    if busy and min(busy) < 0.9:
        lines.append(
            f"Some rounds had only {100 * min(busy):.0f} % of a processor:"
            " other work was running. Trust the ratios, not the times."
        )
    return lines
