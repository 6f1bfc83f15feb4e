"""Bars and lines as inline SVG, without a plotting library. Colours are classes of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log2, log10

SERIES = ("one", "two", "three", "four", "five", "six", "seven", "eight")
"""Classes of the colours, in the order in which contenders are drawn."""
WIDTH = 720


def bars(rows: Sequence[Mapping[str, object]], title: str, unit: str) -> str:
    """Horizontal bars from 0; a row has label, value, low, high, colour and text."""
    left, right, step, top = 220, 96, 28, 30
    reach = max((float(str(row["high"])) for row in rows), default=1.0) or 1.0
    scale = (WIDTH - left - right) / reach
    parts = [_head(title, unit)]
    for index, row in enumerate(rows):
        y = top + step * index
        value, low, high = (float(str(row[name])) for name in ("value", "low", "high"))
        middle = y + step / 2 - 3
        parts += [
            _text(left - 10, middle + 4, str(row["label"]), "end"),
            f'<rect class="bar {row["colour"]}" x="{left}" y="{y}" rx="3"'
            f' width="{max(1.0, value * scale):.1f}" height="{step - 8}"/>',
            f'<line class="range" x1="{left + low * scale:.1f}" x2="{left + high * scale:.1f}"'
            f' y1="{middle:.1f}" y2="{middle:.1f}"/>',
            _text(left + high * scale + 8, middle + 4, str(row["text"]), "start", "value"),
        ]
    return svg(WIDTH, top + step * len(rows) + 6, parts, title)


def claims(rows: Sequence[Mapping[str, object]], title: str) -> str:
    """Ratios with their intervals on one axis; a bar marks what each had to be."""
    left, right, step, top = 320, 70, 30, 40
    ends = [float(str(row[name])) for row in rows for name in ("high", "mark") if row.get(name)]
    reach = max([1.2, *ends]) * 1.05
    scale = (WIDTH - left - right) / reach
    bottom = top + step * len(rows)
    parts = [_head(title, "ratio; the upright mark is what was asked")]
    for tick in ticks(reach):
        x = left + tick * scale
        parts += [
            f'<line class="grid{" one" if tick == 1 else ""}" x1="{x:.1f}" x2="{x:.1f}"'
            f' y1="{top - 6}" y2="{bottom}"/>',
            _text(x, bottom + 16, f"{tick:g}", "middle", "soft"),
        ]
    for index, row in enumerate(rows):
        y = top + step * index + step / 2
        value, low, high = (float(str(row[name])) for name in ("value", "low", "high"))
        parts += [
            _text(left - 10, y + 4, str(row["label"]), "end"),
            f'<line class="whisker {row["status"]}" x1="{left + low * scale:.1f}"'
            f' x2="{left + high * scale:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<circle class="dot {row["status"]}" cx="{left + value * scale:.1f}"'
            f' cy="{y:.1f}" r="5"/>',
            _text(left + high * scale + 10, y + 4, f"{value:.2f}x", "start", "value"),
        ]
        if row.get("mark"):
            x = left + float(str(row["mark"])) * scale
            parts.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9:.1f}" y2="{y + 9:.1f}"/>'
            )
    return svg(WIDTH, bottom + 26, parts, title)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    unit: str,
    across: str,
    logarithmic: bool = False,
) -> str:
    """Lines over an axis in powers of two; upwards from 0, or in powers of ten."""
    left, right, top, bottom, height = 60, 130, 30, 240, 286
    points = [point for line in series.values() for point in line]
    xs = sorted({x for x, _ in points})
    first, last = log2(xs[0]), log2(xs[-1])
    high = max(y for _, y in points)
    low = min(y for _, y in points)
    floor_, ceiling = (_decade(low, False), _decade(high, True)) if logarithmic else (0, high * 1.1)

    def x_of(value: float) -> float:
        share = (log2(value) - first) / (last - first) if last > first else 0.5
        return left + share * (WIDTH - left - right)

    def y_of(value: float) -> float:
        if logarithmic:
            share = (log10(value) - log10(floor_)) / (log10(ceiling) - log10(floor_))
        else:
            share = value / ceiling
        return bottom - share * (bottom - top)

    marks = _decades(floor_, ceiling) if logarithmic else ticks(ceiling)
    parts = [_head(title, unit)]
    for mark in marks:
        y = y_of(mark)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(left - 8, y + 4, f"{mark:g}", "end", "soft"))
    for x in xs:
        parts.append(_text(x_of(x), bottom + 18, f"{x:g}", "middle", "soft"))
    parts.append(_text(WIDTH - right, bottom + 38, across, "end", "soft"))
    labels: list[float] = []
    for colour, (name, line) in zip(SERIES, series.items(), strict=False):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        parts += [
            f'<circle class="point {colour}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3"/>'
            for x, y in line
        ]
        at = _free(y_of(line[-1][1]), labels)
        labels.append(at)
        parts.append(_text(x_of(line[-1][0]) + 8, at + 4, name, "start", f"label {colour}"))
    return svg(WIDTH, height, parts, title)


def svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """One picture with a name for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def ticks(reach: float) -> list[float]:
    """Four to nine even numbers from 0 up to ``reach``."""
    power = 10.0 ** floor(log10(reach))
    step = next(s * power for s in (0.1, 0.2, 0.25, 0.5, 1, 2) if reach / (s * power) <= 8)
    return [round(i * step, 10) for i in range(int(reach / step + 1e-9) + 1)]


def _head(title: str, unit: str) -> str:
    return _text(0, 14, title, "start", "head") + _text(WIDTH, 14, unit, "end", "soft")


def _text(x: float, y: float, text: str, anchor: str, kind: str = "plain") -> str:
    place = f'class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"


def _decade(value: float, up: bool) -> float:
    power = floor(log10(value))
    return 10.0 ** (power + 1 if up and value > 10.0**power else power)


def _decades(low: float, high: float) -> list[float]:
    return [10.0**p for p in range(round(log10(low)), round(log10(high)) + 1)]


def _free(wanted: float, taken: Sequence[float]) -> float:
    """Near ``wanted``, and no closer than a line of text to what is taken."""
    at = wanted
    for other in sorted(taken):
        if abs(at - other) < 15:
            at = other + 15
    return at
