"""Charts: one file each that needs nothing else, the same bytes again, and true to the numbers."""

import io
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from wishbone.core.contract.errors import MissingExtra
from wishbone.core.report import charts

pytest.importorskip("matplotlib", reason="charts: pip install 'wishbone-tts[ab]'")
Image = pytest.importorskip("PIL.Image", reason="reads PNG files")


def texts(drawing):
    """Every text in an SVG file, in its order."""
    root = ElementTree.fromstring(drawing)
    return [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]


def row(label, *points, **fields):
    return charts.Row(label, *points, **({"colour": charts.SOFT} | fields))


def plot(names, **fields):
    series = {name: [(16.0, 1.0 + n), (64.0, 2.0 + n)] for n, name in enumerate(names)}
    colours = {name: charts.colour(n) for n, name in enumerate(names)}
    return charts.Plot("title", "ms", "context", series, colours, **fields)


DRAWINGS = {
    "lines": lambda: charts.lines([plot("ab"), plot("ab")], "t"),
    "powers": lambda: charts.lines([plot("ab", powers=True, logarithmic=True)], "t"),
    "forest": lambda: charts.forest([row("a", 0.5, -1.0, 2.0), row("b", 9.0, 8.5, 20.0)]),
    "ratios": lambda: charts.ratios([row("a", 2.0, 1.9, 2.1, text="2.00x", target=1.5)], "t"),
    "bars": lambda: charts.bars([row("a", 2.0, 1.9, 2.1, text="2 ms")], "t", "ms"),
    "panels": lambda: charts.panels(
        [charts.Panel("m", 1, [charts.Cell(0, 0, 1.0, 0.5, 2.0, (0.9, 1.1))])] * 4, "xy", "z", "t"
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_chart_is_one_file_and_the_same_each_time(name):
    drawing = DRAWINGS[name]()
    assert drawing == DRAWINGS[name]()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", drawing)
    assert "dc:date" not in drawing and "nan" not in drawing
    assert texts(drawing)


def test_powers_are_written_as_numbers():
    assert {"16", "64", "1", "2"} <= set(texts(DRAWINGS["powers"]()))
    assert not any("$" in text for text in texts(DRAWINGS["powers"]()))
    series = {"a": [(1.0, 0.5), (2.0, 500.0)]}
    wide = charts.Plot("t", "u", "x", series, {"a": charts.SOFT}, logarithmic=True)
    assert {"1", "10", "100"} <= set(texts(charts.lines([wide], "t")))
    assert not {"20", "30", "200"} & set(texts(charts.lines([wide], "t")))


def test_labels_are_written_as_they_are():
    drawing = charts.forest([row("<a> $x$ & b_c", 0.5, None, None)])
    assert "<a>" not in drawing and "<a> $x$ & b_c" in texts(drawing)


def test_an_interval_without_an_end_reaches_the_edge():
    def arrows(*points):
        drawing = charts.forest([row("a", *points, colour="#123456")])
        return drawing.count("fill: #123456; stroke: #123456") - 1

    assert arrows(0.5, None, None) == 2 * arrows(0.5, 0.0, None) == 2 * arrows(0.5, -9.0, 3.0)
    assert arrows(0.5, 0.0, 1.0) == 0 < arrows(0.5, None, None)


def test_a_ninth_arm_shares_a_colour():
    drawing = charts.lines([plot("abcdefghi")], "t")
    assert all(paint in drawing for paint in charts.COLOURS)
    assert charts.colour(8) == charts.colour(0) and texts(drawing)[-9:] == list("abcdefghi")


def test_an_arm_has_the_colour_it_was_given_in_every_chart():
    fields = {"colours": {"a": "#010203"}, "series": {"a": [(1.0, 1.0), (2.0, 2.0)]}}
    drawing = charts.lines([charts.Plot("t", "u", "x", **fields)], "t")
    assert "#010203" in drawing and charts.COLOURS[0] not in drawing


def test_a_metric_nobody_measured_says_so():
    assert "not measured" in texts(charts.panels([charts.Panel("m", 1, [])], "x", "z", "t"))


def test_a_spectrogram_shows_pitch_from_below_and_shares_its_width():
    def brightness(frequency, rate=24_000):
        audio = 0.5 * np.sin(2 * np.pi * frequency * np.arange(rate) / rate)
        data = charts.spectrogram(audio, rate, seconds=2.0)
        assert data.startswith(b"\x89PNG")
        return np.array(Image.open(io.BytesIO(data)).convert("RGB")).sum(-1)

    low, high = brightness(200), brightness(4000)
    assert low.shape == high.shape == brightness(200, 48_000).shape == (129, 160)
    # the first row is the highest pitch
    assert low[:, 40].argmax() > 120
    assert abs(high[:, 40].argmax() - 64) <= 1
    # the second half of the width is silence
    assert low[:, 120:].max() == low.min()


def test_colours_grow_brighter():
    import matplotlib

    colours = matplotlib.colormaps["inferno"](np.arange(256))[:, :3]
    assert (np.diff(colours @ [0.299, 0.587, 0.114]) > -1e-3).all()


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="matplotlib"):
        DRAWINGS["bars"]()
