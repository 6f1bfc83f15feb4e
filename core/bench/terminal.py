"""Tables of a result in the terminal, in plain text."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from wishbone.core.bench.arithmetic import asked

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
UNSTEADY = 0.15
"""Share by which memory may vary from round to round before it is said."""
WHAT = {
    "rtf": "time", "work": "processor time",
    "first_audio": "first sound", "first_work": "processor time to the first sound",
    "language_model": "of it the language model", "flow": "of it the flow",
    "vocoder": "of it the vocoder",
}  # fmt: skip
"""Measure -> what to add to a case that has several."""


def progress(text: str) -> None:
    """One line of what is going on."""
    print(text, file=sys.stderr, flush=True)


def show(result: Mapping[str, Any]) -> None:
    """All suites on standard output; the verdict is the last line."""
    for suite in result["suites"]:
        print(f"\n{suite['name']}: {suite['about']}")
        print(table(HEADS, [row_cells(row, suite) for row in suite["rows"]]))
        absent = absent_lines(suite)
        if absent:
            print("\n".join(absent))
        if suite["ratios"]:
            print()
            print(table(RATIO_HEADS, [ratio_cells(claim) for claim in suite["ratios"]]))
    print()
    for line in notes(result):
        print(line)
    print(result["verdict"])


HEADS = (
    "contender", "case", "median", "quartiles", "positions/s", "of limit", "memory", "differs by",
    "busy",
)  # fmt: skip
RATIO_HEADS = ("ratio", "value", "interval", "asked", "stretch", "outcome")
LEFT = ("contender", "case", "ratio", "asked", "outcome")
"""Heads of columns of words."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their heads, words to the left, empty columns left out."""
    cells = filled(heads, rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if head in LEFT else cell.rjust(width)
            for head, cell, width in zip(cells[0], row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def filled(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Heads and rows without the columns that are empty; the first column always stays."""
    columns = [i for i in range(len(heads)) if i == 0 or any(row[i] for row in rows)]
    return [[row[i] for i in columns] for row in (heads, *rows)]


def unit_of(measure: str) -> tuple[float, str]:
    """Factor and unit in which people read a measure."""
    return UNITS.get(measure, (1.0, measure))


def row_cells(row: Mapping[str, Any], suite: Mapping[str, Any]) -> list[str]:
    """Cells under ``HEADS``."""
    factor, unit = unit_of(row["measure"])
    contender = suite["contenders"][row["contender"]]
    facts = contender["cases"].get(row["case"], {})
    speed = row.get("positions_per_second")
    share = row.get("share_of_limit")
    return [
        row["title"],
        " ".join((row["case"], WHAT.get(row["measure"], ""))).rstrip(),
        f"{number(row['median'] * factor)} {unit}",
        f"{number(row['low'] * factor)} to {number(row['high'] * factor)}",
        f"{speed:.1f}" if speed else rate(row),
        f"{100 * share:.0f} %" if share else "",
        memory(facts),
        ", ".join(f"{off:.0e}" for off in contender["difference"].values()),
        f"{100 * row['busy']:.0f} %",
    ]


def rate(row: Mapping[str, Any]) -> str:
    """Gigabytes per second, of what moves bytes."""
    speed = row.get("bytes_per_second")
    return f"{speed / 1e9:.1f} GB/s" if speed else ""


def memory(facts: Mapping[str, Any]) -> str:
    """Bytes of a state, or of a process, as people read them."""
    size = facts.get("state_bytes") or facts.get("peak_bytes")
    unit, name = (2**20, "MiB") if size and size >= 2**20 else (2**10, "KiB")
    return f"{size / unit:.1f} {name}" if size else ""


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def ratio_cells(claim: Mapping[str, Any]) -> list[str]:
    """Cells under ``RATIO_HEADS``."""
    if claim["status"] == "not measured":
        return [claim["title"], "", "", asked(claim), "", f"not measured ({claim.get('why', '')})"]
    stretch = claim.get("stretch")
    reached = " reached" if claim["reached"] else ""
    doubt = "" if claim["sure"] or claim["status"] == "reported" else ", interval on both sides"
    return [
        claim["title"],
        f"{claim['value']:.2f}x",
        f"{claim['low']:.2f} to {claim['high']:.2f}",
        asked(claim),
        f"{stretch:g}x{reached}" if stretch is not None else "",
        claim["status"] + doubt,
    ]


def absent_lines(suite: Mapping[str, Any]) -> list[str]:
    """Who did not take part to the end, or not in every case, and why."""
    lines = []
    for each in suite["contenders"].values():
        if each["status"] != "measured":
            lines.append(f"{each['title']}: {each['status']}, {each['why']}")
        for case, facts in each["cases"].items():
            if "left_out" in facts:
                lines.append(f"{each['title']}: {case} left out, {facts['left_out']}")
    return lines


def notes(result: Mapping[str, Any]) -> list[str]:
    """Where and when, and what disturbed it."""
    machine = result["machine"]
    loads = [load for suite in result["suites"] for load in suite["loads"]]
    around = f"load {min(loads):.1f} to {max(loads):.1f}" if loads else "nothing timed"
    threads = sorted({suite["config"]["threads"] for suite in result["suites"]})
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, threads"
        f" {', '.join(map(str, threads))}, {around}"
        + (f", {machine['gpu']}" if machine["gpu"] else ""),
        ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    ]
    for suite in result["suites"]:
        read = suite["limits"].get("read")
        if read and read["most"] - read["least"] > UNSTEADY * read["median"]:
            lines.append(
                f"{suite['name']}: reading memory gave {read['least'] / 1e9:.0f} to"
                f" {read['most'] / 1e9:.0f} GB/s from round to round; others were using it."
            )
    busy = [row["busy"] for suite in result["suites"] for row in suite["rows"]]
    if busy and min(busy) < 0.9:
        lines.append(
            f"Some rounds had only {100 * min(busy):.0f} % of a processor:"
            " other work was running. Trust the ratios, not the times."
        )
    return lines
