"""A test's result as tables, JSON and one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from wishbone.core.evaluate.listening.estimates import Analysis, Comparison, Estimates
from wishbone.core.report import charts
from wishbone.core.report.html_page import image, write_page
from wishbone.core.report.json_file import write_json
from wishbone.core.report.table import Table

TEMPLATE = Path(__file__).with_name("listening_result.html")
RESULT, PAGE = "listening.json", "listening.html"
SCHEMA = "wishbone-listening-1"
UNSETTLED = "inconclusive"
PERCENT = ("ab", "abx")
"""Designs whose values are shares."""


def write_result(analysis: Analysis, out: Path) -> list[Path]:
    """Write the figures as JSON and a page -> both paths. Raises ``MissingExtra``."""
    context = {
        "analysis": analysis,
        "title": ", ".join(name for name in analysis.systems if name not in analysis.anchors),
        "headline": headline(analysis),
        "tables": tables(analysis),
        "chart": image(chart(analysis)) if analysis.estimates.answers else "",
        "everybody": [t for t in figures(analysis, analysis.everybody) if t.rows],
        "facts": facts(analysis),
        "wilcoxon": analysis.design != "abx",
    }
    # through JSON once: a NaN would make a file that few programs read
    data = json.loads(json.dumps({"schema": SCHEMA, **asdict(analysis)}).replace("NaN", "null"))
    return [
        write_json(out / RESULT, data),
        write_page(out / PAGE, TEMPLATE, context),
    ]


def headline(analysis: Analysis) -> str:
    """Say in a sentence or two what listeners decided."""
    comparisons = analysis.estimates.comparisons
    if not comparisons:
        return "No answer is left after screening, so there is no result."
    if len(comparisons) == 1 or analysis.design == "abx":
        return " ".join(_sentence(analysis.design, c) for c in comparisons)
    settled = [_sentence(analysis.design, c) for c in comparisons if c.verdict != UNSETTLED]
    others = [f"{c.system} and {c.base}" for c in comparisons if c.verdict == UNSETTLED]
    rest = [f"Nothing is settled between {', '.join(others)}."] if others else []
    return " ".join([*settled, *rest])


def _sentence(design: str, c: Comparison) -> str:
    value, interval = _number(design, c.value), _interval(design, c.low, c.high)
    if design == "abx":
        ending = "can be told apart" if c.verdict == "told apart" else "were not told apart"
        return f"{c.base} and {c.system} {ending}: {value} right ({interval})."
    measured = {
        "ab": f"it is preferred in {value} of the votes, ties split ({interval})",
        "cmos": f"{value} on the comparison scale ({interval})",
    }.get(design, f"{value} on the rating scale ({interval})")
    words = {
        "better": f"Listeners prefer {c.system} to {c.base}",
        "worse": f"Listeners prefer {c.base} to {c.system}",
        "equivalent": f"Listeners hold {c.system} and {c.base} for equal within the margin",
    }.get(c.verdict, f"Between {c.system} and {c.base} nothing is settled")
    subject = measured.replace("it is", f"{c.system} is")
    return f"{words}: {subject}."


def tables(analysis: Analysis) -> list[Table]:
    """Return every table of the result that holds anything."""
    return [
        table for table in (*figures(analysis, analysis.estimates), log(analysis)) if table.rows
    ]


def figures(analysis: Analysis, estimates: Estimates) -> list[Table]:
    """Return the tables of comparisons and of systems."""
    return [_comparisons(analysis, estimates), _standings(analysis, estimates)]


def _comparisons(analysis: Analysis, estimates: Estimates) -> Table:
    design = analysis.design
    several = len(estimates.comparisons) > 1
    second = "binomial p" if design == "abx" else "Wilcoxon p"
    counts = "right" if design == "abx" else "won"
    rows = [
        [
            f"{c.system} against {c.base}",
            _number(design, c.value),
            _interval(design, c.low, c.high),
            _p(c.p_holm if several else c.p),
            _p(c.second_p),
            f"{c.wins}/{c.ties}/{c.losses}" if design != "abx" else f"{c.wins} of {c.answers}",
            str(c.answers),
            c.verdict,
        ]
        for c in estimates.comparisons
    ]
    unit = "difference" if design in ("mos", "mushra") else analysis.unit
    head = ["systems", unit, "95 % interval", "p (Holm)" if several else "p", second,
            counts if design == "abx" else "won/tied/lost", "answers", "verdict"]  # fmt: skip
    verdicts = [_colour(c.verdict) for c in estimates.comparisons]
    return Table("Comparisons", head, rows, ("verdict",), verdicts)


def _colour(verdict: str) -> str:
    return "equivalent" if verdict == "told apart" else verdict


def _standings(analysis: Analysis, estimates: Estimates) -> Table:
    strengths = analysis.design == "ab"
    title = "Strengths (Bradley-Terry with Davidson's ties)" if strengths else "Systems"
    head = ["system", "points, mean 0" if strengths else "mean", "95 % interval"]
    head += ["votes"] if strengths else ["median", "quartiles", "answers"]
    rows = []
    for s in estimates.standings:
        digits = 0 if strengths else _digits(analysis.design)
        row = [s.system, f"{s.value:.{digits}f}", f"{s.low:.{digits}f} to {s.high:.{digits}f}"]
        if not strengths and s.quartiles is not None and s.median is not None:
            row += [f"{s.median:g}", f"{s.quartiles[0]:g} to {s.quartiles[1]:g}"]
        rows.append([*row, str(s.answers)])
    return Table(title, head, rows)


def log(analysis: Analysis) -> Table:
    """Return the screening log."""
    rows = [
        [note.rater, note.rule, note.detail, "left out" if note.excluded else "stays"]
        for note in analysis.notes
    ]
    words = ("rule", "what happened", "answers")
    return Table("Screening log", ["listener", *words], rows, words)


def facts(analysis: Analysis) -> list[str]:
    """Return the figures about the test itself, a sentence each."""
    e = analysis.estimates
    lines = [f"{e.listeners} listeners, {e.items} sentences, {e.answers} answers that count."]
    if e.agreement is not None:
        lines.append(
            f"Agreement of listeners (Krippendorff's alpha): {e.agreement:.2f};"
            " 1 is perfect, 0 is chance."
        )
    if e.first is not None:
        lines.append(f"The first clip was preferred in {100 * e.first:.0f} % of decided pairs.")
    if e.friedman is not None:
        lines.append(f"Friedman's test that all systems are alike: p {_p(e.friedman)}.")
    return lines


def chart(analysis: Analysis) -> str:
    """Draw the estimates of systems, or else of comparisons, with their intervals."""
    estimates = analysis.estimates
    if estimates.standings:
        rows = [
            charts.Row(s.system, s.value, _end(s.low), _end(s.high), charts.colour(place))
            for place, s in enumerate(estimates.standings)
        ]
        strengths = analysis.design == "ab"
        title = "points of strength" if strengths else analysis.unit
        return charts.estimates(rows, 0.0 if strengths else None, title)
    scale = 100 if analysis.design in PERCENT else 1
    unit = f"{analysis.unit}, %" if analysis.design in PERCENT else analysis.unit
    rows = [
        charts.Row(
            f"{c.system}\nagainst {c.base}", scale * c.value, _end(scale * c.low),
            _end(scale * c.high),
            charts.VERDICTS.get(_colour(c.verdict), charts.SOFT), c.verdict,
        )
        for c in estimates.comparisons
    ]  # fmt: skip
    return charts.estimates(rows, scale * _equal(analysis.design), unit)


def _equal(design: str) -> float:
    return 0.5 if design in PERCENT else 0.0


def _end(value: float) -> float | None:
    return None if value != value else value


def _number(design: str, value: float) -> str:
    if design in PERCENT:
        return f"{100 * value:.0f} %"
    return f"{value:+.{_digits(design)}f}"


def _digits(design: str) -> int:
    return 1 if design == "mushra" else 2


def _interval(design: str, low: float, high: float) -> str:
    if low != low:
        return "not known"
    if design in PERCENT:
        return f"{100 * low:.0f} to {100 * high:.0f} %"
    return f"{_number(design, low)} to {_number(design, high)}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def lines(analysis: Analysis) -> Sequence[str]:
    """Return the headline, the facts and the warnings for a terminal."""
    return [headline(analysis), *facts(analysis), *(f"note: {w}" for w in analysis.warnings)]
