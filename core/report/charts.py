"""Charts of the report, the page of a result and the benchmark, drawn by matplotlib.

Every function returns the text of one SVG file that needs nothing else, and raises
``MissingExtra`` without matplotlib. The same data and the same matplotlib give the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wishbone.core.contract.extensions.optional import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3a5bd0", "#c2571a", "#1d7f63", "#8a3ea8", "#7a6a10", "#a02045", "#2b7a9b", "#5a5a5a")
"""Colours of arms and contenders by their order; blue and orange also differ in grey."""
VERDICTS = {
    "better": "#16794f", "worse": "#b3261e", "equivalent": "#2a66b8", "inconclusive": "#8a6500",
    "met": "#16794f", "missed": "#b3261e", "reported": "#2a66b8",
}  # fmt: skip
INK, SOFT, RULE, PAPER = "#1d1c22", "#63606c", "#dedae2", "#fbfaf8"
ACROSS = 3
"""Panels side by side."""
WIDTH = 6.8
"""Inches of a chart; a browser shows 96 pixels for each."""
WINDOW, FRAME = 0.016, 0.0125
"""Seconds of a spectrogram's window and between its columns."""
TOP_HZ = 8000
"""Highest frequency of a spectrogram."""
FLOOR, CEILING = -90.0, -20.0
"""Decibels that are drawn darkest and brightest, the same for every clip, so that clips compare."""
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "wishbone", "text.parse_math": False,
    "font.size": 9.0, "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": RULE, "axes.labelcolor": SOFT, "axes.labelsize": 8.5, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.7, "text.color": INK,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": SOFT, "ytick.labelcolor": SOFT,
    "axes.facecolor": PAPER, "figure.facecolor": PAPER, "legend.frameon": False,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of a forest or a bar: an estimate and the ends of its interval."""

    label: str
    value: float
    low: float | None
    """None where the interval has no lower end; ``high`` likewise."""
    high: float | None
    colour: str
    text: str = ""
    """Written beside it."""
    target: float | None = None
    """The value that was required, drawn as an upright mark."""


@dataclass(frozen=True)
class Plot:
    """Lines over a common axis."""

    title: str
    unit: str
    across: str
    """The axis to the right, in words."""
    series: Mapping[str, Sequence[tuple[float, float]]]
    colours: Mapping[str, str]
    """Of each series."""
    powers: bool = False
    """Whether the axis to the right is in powers of two."""
    logarithmic: bool = False
    """Whether the upward axis is in powers of ten; from 0 otherwise."""


@dataclass(frozen=True)
class Cell:
    """An estimate in a panel, its interval, and the single trainings behind it."""

    column: int
    series: int
    value: float
    low: float | None
    high: float | None
    dots: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One metric in every cell of an experiment."""

    title: str
    digits: int
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Point:
    """A contender in a plane of two values, with the ends of both intervals."""

    name: str
    across: tuple[float, float, float]
    """Estimate, low and high to the right; ends equal the estimate where there are none."""
    upward: tuple[float, float, float]


@dataclass(frozen=True)
class Plane:
    """Points of two values, and the side of each that is better."""

    title: str
    across: str
    upward: str
    points: Sequence[Point]
    upward_is_better: bool
    """False where less is better, as of errors; to the left is always better."""
    logarithmic: bool = False
    """True for powers of ten to the right."""


def colour(place: int) -> str:
    """Return the colour of the arm or contender at ``place``; a ninth looks as the first again."""
    return COLOURS[place % len(COLOURS)]


def lines(plots: Sequence[Plot], title: str) -> str:
    """Draw line charts beside each other, with one legend for all of them."""
    wide = 5.0 if len(plots) > 1 else WIDTH
    with _chart(wide * len(plots), 2.9) as figure:
        for axes, plot in zip(_row(figure, len(plots)), plots, strict=True):
            for name, points in plot.series.items():
                x, y = zip(*points, strict=True)
                axes.plot(x, y, "o-", color=plot.colours[name], linewidth=1.8, markersize=3)
            axes.set(title=plot.title, xlabel=plot.across, ylabel=plot.unit)
            if plot.powers:
                places = sorted({x for points in plot.series.values() for x, _ in points})
                axes.set_xscale("log", base=2)
                axes.set_xticks(places, [f"{x:g}" for x in places])
                axes.minorticks_off()
            if plot.logarithmic:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                low, high = axes.get_ylim()
                # names between powers of ten crowd an axis of several
                axes.yaxis.set_minor_formatter("{x:g}" if high < 20 * low else "")
            else:
                axes.set_ylim(bottom=0)
        _legend(figure, {name: plots[0].colours[name] for name in plots[0].series})
        return _svg(figure, title)


def planes(drawn: Sequence[Plane], colours: Mapping[str, str], title: str) -> str:
    """Draw points with their intervals; a line joins those that no other point beats in both."""
    with _chart(4.6 * len(drawn), 3.1) as figure:
        for axes, plane in zip(_row(figure, len(drawn)), drawn, strict=True):
            for point in plane.points:
                (x, left, right), (y, low, high) = point.across, point.upward
                paint = colours[point.name]
                axes.plot([left, right], [y, y], color=paint, linewidth=1.6, alpha=0.6)
                axes.plot([x, x], [low, high], color=paint, linewidth=1.6, alpha=0.6)
                axes.plot(x, y, "o", color=paint, markersize=7)
            best = unbeaten(plane)
            axes.plot(
                [p.across[0] for p in best], [p.upward[0] for p in best],
                color=SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1,
            )  # fmt: skip
            axes.set(title=plane.title, xlabel=plane.across, ylabel=plane.upward)
            if plane.logarithmic:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
                left, right = axes.get_xlim()
                axes.xaxis.set_minor_formatter("{x:g}" if right < 20 * left else "")
        _legend(figure, colours)
        return _svg(figure, title)


def unbeaten(plane: Plane) -> list[Point]:
    """Points that no other one beats in both values (the Pareto front), from left to right."""
    sign = 1 if plane.upward_is_better else -1
    values = {p.name: (-p.across[0], sign * p.upward[0]) for p in plane.points}
    best = [
        p
        for p in plane.points
        if not any(
            other != values[p.name]
            and all(o >= v for o, v in zip(other, values[p.name], strict=True))
            for other in values.values()
        )
    ]
    return sorted(best, key=lambda p: p.across[0])


def forest(rows: Sequence[Row]) -> str:
    """Draw differences in units of their margins; to the right an arm is better.

    The shaded band is the margin. Intervals that reach beyond 8 margins end in an arrow.
    """
    ends = [abs(p) for row in rows for p in (row.value, row.low, row.high) if p is not None]
    reach = min(8.0, max([2.0, *ends]) * 1.1)
    with _chart(WIDTH, 0.55 + 0.3 * len(rows)) as figure:
        axes = _rows(figure, [row.label for row in rows])
        axes.axvspan(-1, 1, color=VERDICTS["equivalent"], alpha=0.12, linewidth=0)
        axes.axvline(0, color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
        for place, row in enumerate(rows):
            low = -np.inf if row.low is None else row.low
            high = np.inf if row.high is None else row.high
            middle = float(np.clip(row.value, -reach, reach))
            inside = np.clip([low, high], -reach, reach)
            axes.plot(inside, [place] * 2, color=row.colour, linewidth=2.5)
            axes.plot(middle, place, "o", color=row.colour, markersize=6)
            for end, arrow in ((low, "<"), (high, ">")):
                if abs(end) > reach:
                    at = float(np.sign(end) * reach)
                    axes.plot(at, place, arrow, color=row.colour, markersize=7, clip_on=False)
        axes.set_xlim(-reach, reach)
        axes.set_xticks([-reach, 0, reach], ["worse", "equal", "better"])
        return _svg(figure, "Differences in units of their margins")


def ratios(rows: Sequence[Row], title: str) -> str:
    """Draw ratios and their intervals on one axis from 0, with a mark where one was required."""
    with _chart(WIDTH + 1, 0.8 + 0.3 * len(rows)) as figure:
        axes = _rows(figure, [row.label for row in rows])
        axes.axvline(1, color=SOFT, linewidth=1)
        for place, row in enumerate(rows):
            low, high = _ends(row)
            axes.plot([low, high], [place] * 2, color=row.colour, linewidth=3, alpha=0.6)
            axes.plot(row.value, place, "o", color=row.colour, markersize=6)
            if row.target is not None:
                axes.plot(row.target, place, "|", color=INK, markersize=13, markeredgewidth=2)
            _beside(axes, max(high, row.target or 0.0), place, row.text)
        axes.set(title=f"{title} (the upright mark is what was required)")
        axes.set_xlim(0, 1.12 * max(max(_ends(row)[1], row.target or 1.0) for row in rows))
        return _svg(figure, title)


def estimates(rows: Sequence[Row], equal: float | None, unit: str) -> str:
    """Draw estimates and their intervals, beside an upright line at ``equal`` (no difference)."""
    with _chart(WIDTH, 0.75 + 0.42 * len(rows)) as figure:
        axes = _rows(figure, [row.label for row in rows])
        for place, row in enumerate(rows):
            axes.plot(_ends(row), [place] * 2, color=row.colour, linewidth=2.5)
            axes.plot(row.value, place, "o", color=row.colour, markersize=6)
        if equal is not None:
            axes.axvline(equal, color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
            reach = 1.1 * max([1e-9, *(abs(end - equal) for row in rows for end in _ends(row))])
            axes.set_xlim(equal - reach, equal + reach)
        axes.set(xlabel=unit)
        return _svg(figure, unit)


def bars(rows: Sequence[Row], title: str, unit: str) -> str:
    """Draw horizontal bars from 0 with the ends of their intervals."""
    with _chart(WIDTH + 1, 0.8 + 0.3 * len(rows)) as figure:
        axes = _rows(figure, [row.label for row in rows])
        for place, row in enumerate(rows):
            low, high = _ends(row)
            axes.barh(place, row.value, height=0.7, color=row.colour)
            axes.plot([low, high], [place] * 2, color=INK, linewidth=1.2)
            _beside(axes, high, place, row.text)
        axes.set(title=title, xlabel=unit)
        axes.set_xlim(0, 1.2 * max(_ends(row)[1] for row in rows) or 1.0)
        return _svg(figure, title)


def panels(
    drawn: Sequence[Panel], series: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """Draw a panel for each metric: an interval for each cell, and a ring for each training."""
    count = -(-len(drawn) // ACROSS)
    with _chart(3.2 * ACROSS, 0.3 + 2.1 * count) as figure:
        grid = figure.subplots(count, ACROSS, squeeze=False).ravel()
        for axes in grid[len(drawn) :]:
            axes.remove()
        for axes, panel in zip(grid, drawn, strict=False):
            axes.set_title(panel.title, fontsize=7.5)
            axes.set_xlim(-0.5, len(columns) - 0.5)
            axes.set_xticks(range(len(columns)), columns)
            axes.grid(False, axis="x")
            if not panel.cells:
                axes.set_yticks([])
                axes.text(0.5, 0.5, "not measured", color=SOFT, transform=axes.transAxes)
                continue
            axes.yaxis.set_major_formatter(f"{{x:.{panel.digits}f}}")
            axes.locator_params(axis="y", nbins=4)
            for cell in panel.cells:
                _cell(axes, cell, len(series))
        _legend(figure, {name: colour(place) for place, name in enumerate(series)})
        return _svg(figure, title)


def spectrogram(audio: np.ndarray, rate: int, seconds: float) -> bytes:
    """Return a PNG of audio [S]: time to the right, frequency up, ``seconds`` wide however long."""
    mlab = need("matplotlib.mlab", "matplotlib", "draw charts")
    colormap = need("matplotlib", "matplotlib", "draw charts").colormaps["inferno"]
    image = need("PIL.Image", "matplotlib", "draw charts")
    size, hop = round(WINDOW * rate), round(FRAME * rate)
    columns = max(1, round(seconds / FRAME))
    padded = np.pad(audio, (size // 2, max(0, columns * hop + size - len(audio))))
    power, hertz, _ = mlab.specgram(padded, size, rate, noverlap=size - hop, scale_by_freq=False)
    decibels = 10 * np.log10(power[hertz <= TOP_HZ, :columns] + 1e-12)
    levels = np.clip((decibels - FLOOR) / (CEILING - FLOOR) * 255, 0, 255).astype(np.uint8)
    # a palette makes a third of the bytes of four channels; row 0 is the top
    picture = image.fromarray(np.ascontiguousarray(levels[::-1])).convert("P")
    picture.putpalette(colormap(np.arange(256), bytes=True)[:, :3].tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def data_url(kind: str, data: bytes) -> str:
    """Return bytes as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@contextmanager
def _chart(width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure of so many inches, in the style of all charts."""
    matplotlib = need("matplotlib", "matplotlib", "draw charts")
    figures = need("matplotlib.figure", "matplotlib", "draw charts")
    with matplotlib.rc_context(_STYLE):
        yield figures.Figure((width, height), layout="constrained")


def _row(figure: Figure, count: int) -> Sequence[Axes]:
    return figure.subplots(1, count, squeeze=False)[0]


def _rows(figure: Figure, labels: Sequence[str]) -> Axes:
    """Return axes with a labelled row for each of ``labels``, the first on top."""
    axes = figure.subplots()
    axes.set_yticks(range(len(labels)), labels, color=INK)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    return axes


def _ends(row: Row) -> tuple[float, float]:
    """Return both ends of a row's interval, the estimate where it has none."""
    low = row.value if row.low is None else row.low
    return low, row.value if row.high is None else row.high


def _beside(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text, (x, y), (7, 0), textcoords="offset points", va="center", weight="bold",
        annotation_clip=False,
    )  # fmt: skip


def _cell(axes: Axes, cell: Cell, series: int) -> None:
    x = cell.column + (cell.series - (series - 1) / 2) * 0.22
    paint = colour(cell.series)
    if cell.low is not None and cell.high is not None:
        axes.plot([x, x], [cell.low, cell.high], color=paint, linewidth=2.5)
    axes.plot(x, cell.value, "o", color=paint, markersize=6)
    axes.plot(
        [x + 0.07] * len(cell.dots), cell.dots, "o", color=paint, markersize=3,
        markerfacecolor=PAPER, markeredgewidth=0.8,
    )  # fmt: skip


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    shapes = need("matplotlib.lines", "matplotlib", "draw charts")
    handles = [
        shapes.Line2D([], [], marker="s", linestyle="", color=paint, label=name)
        for name, paint in colours.items()
    ]
    columns = max(1, 90 // (4 + max(map(len, colours))))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, handletextpad=0.2)


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an SVG file without a date."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Title": title})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
