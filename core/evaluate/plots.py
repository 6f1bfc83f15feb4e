"""Pictures of an experiment with factors, as SVG files that need no page around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from wishbone.core.evaluate import pictures, tables

Result = Mapping[str, Any]
COLOURS = ("#3a5bd0", "#c2571a", "#1d7f63", "#8a3ea8", "#7a6a10", "#a02045", "#2b7a9b", "#5a5a5a")
"""Those of the report's light page, by series; blue and orange also differ in grey."""
ACROSS = 3
"""Panels side by side."""
WIDE, HIGH = 250, 190
"""Points of a panel."""
STYLE = (
    "text{font:11px sans-serif;fill:#1d1c22}.soft{fill:#63606c}.head{font-weight:600}"
    ".grid{stroke:#dedae2}.line{fill:none;stroke-width:2}"
    + "".join(
        f".line.{name}{{stroke:{colour}}}.mark.{name}{{fill:{colour}}}"
        for name, colour in zip(pictures.SERIES, COLOURS, strict=True)
    )
)


def figures(result: Result) -> dict[str, str]:
    """Name -> SVG: every metric over the cells, and speed and memory against length."""
    drawn = {"figures": panels(result)} if result["factors"] else {}
    length = result.get("length") or {}
    if length:
        parts = [
            _lines(length, "step_ms", 1, "Time of one step", "milliseconds"),
            _lines(length, "state_bytes", 1 / 1024**2, "Size of the state", "MiB"),
        ]
        names = list(length)
        drawn["length"] = _beside(parts, 480, 230, names)
    return drawn


def panels(result: Result) -> str:
    """A panel for each metric: an interval for each cell, and a dot for each training in it.

    Colours are the levels of the first factor; the levels of the others stand from left to right.
    """
    first, *rest = result["factors"]
    levels = result["factors"][first]
    parts = []
    for number, (key, metric) in enumerate(result["metrics"].items()):
        at = (number % ACROSS * WIDE, 24 + number // ACROSS * HIGH)
        parts += [f'<g transform="translate({at[0]},{at[1]})">']
        parts += [*_panel(result, key, metric, first, rest, levels), "</g>"]
    height = 24 + -(-len(result["metrics"]) // ACROSS) * HIGH
    return _file(ACROSS * WIDE, height, [*_legend(levels), *parts], "Every metric in every cell")


def _panel(
    result: Result,
    key: str,
    metric: Mapping[str, Any],
    first: str,
    rest: Sequence[str],
    levels: Sequence[str],
) -> list[str]:
    left, top, bottom, width = 44, 24, HIGH - 30, WIDE - 58
    columns = tables.levels_of(result, rest)
    marks = []
    for place, held in enumerate(columns):
        for series, level in enumerate(levels):
            arm = tables.arm_at(result, {first: level, **held})
            found = result["values"][arm].get(key)
            if found:
                x = left + (place + 0.5 + (series - (len(levels) - 1) / 2) * 0.22) * width / len(
                    columns
                )
                marks.append((x, series, found, result["checkpoints"][arm].get(key) or []))
    parts = [
        _text(0, 12, f"{metric['title']} ({metric['unit']}, {metric['better']} is better)", "head")
    ]
    ends = [v for _, _, f, own in marks for v in (f["low"], f["high"], f["value"], *own)]
    known = [value for value in ends if value is not None]
    if not known:
        return [*parts, _text(left, 40, "not measured", "soft")]
    low, high = min(known), max(known)
    room = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    for value in np.linspace(low + room, high - room, 3):
        parts += [
            f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y(value):.1f}"'
            f' y2="{y(value):.1f}"/>',
            _text(left - 4, y(value) + 4, f"{value:.{metric['digits']}f}", "soft", "end"),
        ]
    for place, held in enumerate(columns):
        x = left + (place + 0.5) * width / len(columns)
        parts.append(_text(x, bottom + 18, ", ".join(held.values()), "soft", "middle"))
    for x, series, found, own in marks:
        colour = COLOURS[series % len(COLOURS)]
        if found["low"] is not None:
            parts.append(
                f'<line stroke="{colour}" stroke-width="3" x1="{x:.1f}" x2="{x:.1f}"'
                f' y1="{y(found["low"]):.1f}" y2="{y(found["high"]):.1f}"/>'
            )
        parts.append(f'<circle fill="{colour}" cx="{x:.1f}" cy="{y(found["value"]):.1f}" r="4.5"/>')
        parts += [
            f'<circle fill="#fbfaf8" stroke="{colour}" cx="{x + 8:.1f}" cy="{y(value):.1f}" r="2"/>'
            for value in (own if len(own) > 1 else [])
        ]
    return parts


def _lines(length: Mapping[str, Any], key: str, scale: float, title: str, unit: str) -> str:
    series = {
        arm: [(row["seconds"], row[key] * scale) for row in rows] for arm, rows in length.items()
    }
    return pictures.lines(series, title, unit, "seconds of audio so far")


def _beside(drawings: Sequence[str], wide: int, high: int, names: Sequence[str]) -> str:
    parts = [*_legend(names)]
    for number, drawing in enumerate(drawings):
        inner = drawing[drawing.index(">") + 1 : drawing.rindex("</svg>")]
        parts.append(f'<g transform="translate({number * (wide + 20)},26)">{inner}</g>')
    whole = len(drawings) * (wide + 20)
    return _file(whole, high + 26, parts, "Speed and memory against length")


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], 4.0
    for name, colour in zip(names, COLOURS, strict=False):
        parts += [
            f'<rect x="{x:.0f}" y="3" width="11" height="11" rx="3" fill="{colour}"/>',
            _text(x + 16, 13, name),
        ]
        x += 34 + 6.6 * len(name)
    return parts


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _file(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """One SVG file on light paper, 8 points of it on each side."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {width + 16:.0f}'
        f' {height + 16:.0f}" width="{width + 16:.0f}" height="{height + 16:.0f}" role="img"'
        f' aria-label="{escape(title)}"><style>{STYLE}</style>'
        f'<rect x="-8" y="-8" width="100%" height="100%" fill="#fbfaf8"/>{"".join(parts)}</svg>\n'
    )
