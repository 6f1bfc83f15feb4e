"""Pictures of sound and of numbers, without a plotting library: PNG bytes and inline SVG."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

import numpy as np

HEIGHT = 96
"""Rows of a spectrogram: mel bands from 0 to half the sample rate."""
FRAME = 0.0125
"""Seconds between columns of a spectrogram."""
FLOOR = -90.0
"""Decibels that are drawn darkest; the range is the same for every clip, so clips compare."""

_STOPS = (
    (12, 10, 30),
    (66, 22, 96),
    (146, 42, 104),
    (219, 84, 72),
    (249, 160, 48),
    (252, 246, 180),
)
SERIES = ("one", "two", "three", "four", "five", "six", "seven", "eight")
"""Classes of the page's colours, one for each arm; a ninth arm looks as the first again."""


def spectrogram(audio: np.ndarray, rate: int, seconds: float) -> bytes:
    """A PNG of audio [S]: time to the right, pitch upwards, ``seconds`` wide however long it is."""
    size, hop = 1024, round(FRAME * rate)
    wanted = max(1, round(seconds / FRAME))
    padded = np.pad(audio, (size // 2, max(0, wanted * hop + size - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:wanted]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2 / (size / 4) ** 2
    decibels = 10 * np.log10(power @ _mel(rate, size).T + 1e-12)
    levels = np.clip((decibels - FLOOR) / -FLOOR * 255, 0, 255).astype(np.uint8)
    return png(levels.T[::-1], palette())


def png(levels: np.ndarray, colours: np.ndarray) -> bytes:
    """Rows and columns of indices uint8 [H, W] into colours uint8 [256, 3], as a PNG file."""
    height, width = levels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    # every row begins with the number of its filter; 0 is none
    rows = np.concatenate([np.zeros((height, 1), np.uint8), levels], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", colours.astype(np.uint8).tobytes())
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def palette() -> np.ndarray:
    """256 colours from dark violet over red to pale yellow, each brighter than the one before."""
    stops = np.array(_STOPS, float)
    at = np.linspace(0, len(stops) - 1, 256)
    columns = [np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return np.stack(columns, 1).round().astype(np.uint8)


def data_url(kind: str, data: bytes) -> str:
    """Bytes as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Differences in units of their margins: each row has label, points (mid, low, high), verdict.

    To the right the arm is better than the baseline. The shaded band is the margin.
    """
    ends = [abs(p) for row in rows for p in row["points"] if p is not None]
    reach = min(8.0, max([2.0, *ends]) * 1.1)
    left, width, step = 132, 480, 30
    height = step * len(rows) + 44

    def x(value: float) -> float:
        return left + (np.clip(value, -reach, reach) + reach) / (2 * reach) * (width - left - 12)

    parts = [
        f'<rect class="band" x="{x(-1):.1f}" y="6" width="{x(1) - x(-1):.1f}"'
        f' height="{height - 40}"/>',
        f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="6" y2="{height - 34}"/>',
    ]
    for number, row in enumerate(rows):
        y = 6 + step * (number + 0.5)
        mid, low, high = row["points"]
        low, high = (-reach if low is None else low), (reach if high is None else high)
        parts.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(row["label"])}</text>'
        )
        parts.append(
            f'<line class="bar {row["verdict"]}" x1="{x(low):.1f}" x2="{x(high):.1f}"'
            f' y1="{y}" y2="{y}"/>'
        )
        parts += [
            _arrow(x(end), y, end > 0, row["verdict"]) for end in (low, high) if abs(end) > reach
        ]
        parts.append(f'<circle class="dot {row["verdict"]}" cx="{x(mid):.1f}" cy="{y}" r="4.5"/>')
    base = height - 14
    parts.append(f'<text class="soft" x="{left}" y="{base}">worse</text>')
    parts.append(f'<text class="soft" x="{x(0):.1f}" y="{base}" text-anchor="middle">equal</text>')
    parts.append(f'<text class="soft" x="{width - 12}" y="{base}" text-anchor="end">better</text>')
    return _svg(width, height, parts, "Differences in units of their margins")


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], title: str, unit: str, across: str
) -> str:
    """Lines over a common axis that begins at 0, with the numbers of the last points written."""
    width, height, left, bottom, top = 480, 230, 52, 196, 30
    points = [point for line in series.values() for point in line]
    right = max((x for x, _ in points), default=1) or 1
    ceiling = _round_up(max((y for _, y in points), default=1) or 1)

    def place(point: tuple[float, float]) -> str:
        across_ = left + point[0] / right * (width - left - 16)
        return f"{across_:.1f},{bottom - point[1] / ceiling * (bottom - top):.1f}"

    parts = [f'<text x="0" y="14" class="head">{escape(title)}</text>']
    for share in (0, 0.5, 1):
        y = bottom - share * (bottom - top)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 16}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="soft" x="{left - 6}" y="{y + 4}" text-anchor="end">'
            f"{share * ceiling:g}</text>"
        )
    for share in (0, 0.5, 1):
        at = left + share * (width - left - 16)
        anchor = "end" if share == 1 else "middle"
        parts.append(
            f'<text class="soft" x="{at}" y="{bottom + 16}" text-anchor="{anchor}">'
            f"{share * right:g}</text>"
        )
    parts.append(
        f'<text class="soft" x="{width - 16}" y="{bottom + 31}" text-anchor="end">'
        f"{escape(across)}</text>"
    )
    parts.append(
        f'<text class="soft" x="{width - 16}" y="14" text-anchor="end">{escape(unit)}</text>'
    )
    for name, line in zip(cycle(SERIES), series.values(), strict=False):
        parts.append(f'<polyline class="line {name}" points="{" ".join(map(place, line))}"/>')
        parts += [
            f'<circle class="mark {name}" cx="{place(p).split(",")[0]}"'
            f' cy="{place(p).split(",")[1]}" r="2.6"/>'
            for p in line
        ]
    return _svg(width, height, parts, title)


def _arrow(x: float, y: float, right: bool, verdict: str) -> str:
    tip = 7 if right else -7
    return (
        f'<path class="tip {verdict}" d="M{x + tip:.1f} {y} L{x:.1f} {y - 5} L{x:.1f} {y + 5} Z"/>'
    )


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _round_up(value: float) -> float:
    """The next number that reads well: 1, 2, 2.5, 4, 5 or 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(s * power for s in (1, 2, 2.5, 4, 5, 8, 10) if s * power >= value * 0.999))


def _mel(rate: int, size: int) -> np.ndarray:
    """Triangular filters [HEIGHT, size/2+1] on the mel scale of O'Shaughnessy, peak 1."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, HEIGHT + 2) / 2595) - 1)
    # low bands are narrower than a bin; half a bin of slope keeps them from being empty
    bins, slack = np.linspace(0, rate / 2, size // 2 + 1), rate / size
    rise = (bins - edges[:-2, None]) / np.maximum(edges[1:-1] - edges[:-2], slack)[:, None]
    fall = (edges[2:, None] - bins) / np.maximum(edges[2:] - edges[1:-1], slack)[:, None]
    return np.clip(np.minimum(rise, fall), 0, 1)
