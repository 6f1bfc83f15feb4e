"""Files with the times of words: JSON, subtitles (SRT), and the TextGrid of Praat."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import UsageError


class TimedWord(Protocol):
    """A word and its place, in seconds from the beginning of the audio."""

    @property
    def word(self) -> str:
        """The word as it is spoken."""

    @property
    def begin(self) -> float:
        """Its beginning."""

    @property
    def end(self) -> float:
        """Its end."""

    @property
    def estimated(self) -> bool:
        """True where the end is no more than likely."""


def as_json(words: Sequence[TimedWord], seconds: float) -> str:
    """One object: the audio's ``seconds``, and ``words`` as objects, one a line."""
    rows = [
        json.dumps(
            {"word": w.word, "begin": round(w.begin, 3), "end": round(w.end, 3),
             "estimated": w.estimated},
            ensure_ascii=False,
        )
        for w in words
    ]  # fmt: skip
    body = ",\n".join(f"  {row}" for row in rows)
    return f'{{"seconds": {round(seconds, 3)}, "words": [\n{body}\n]}}\n'


def as_srt(words: Sequence[TimedWord], seconds: float) -> str:
    """A subtitle for each word."""
    cues = [
        f"{n}\n{_clock(w.begin)} --> {_clock(w.end)}\n{w.word}\n"
        for n, w in enumerate(words, start=1)
    ]
    return "\n".join(cues)


def as_text_grid(words: Sequence[TimedWord], seconds: float) -> str:
    """One tier ``words`` whose intervals cover all of the audio; a pause between has no text."""
    intervals, last = list[tuple[float, float, str]](), 0.0
    for word in words:
        if word.begin > last:
            intervals.append((last, word.begin, ""))
        # Praat takes no interval without a length
        if word.end > word.begin:
            intervals.append((word.begin, word.end, word.word))
        last = word.end
    if seconds > last:
        intervals.append((last, seconds, ""))
    span = f"xmin = 0\nxmax = {max(seconds, last):.6f}"
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", span,
        "tiers? <exists>", "size = 1", "item []:", "    item [1]:",
        '        class = "IntervalTier"', '        name = "words"',
        *(f"        {line}" for line in span.splitlines()),
        f"        intervals: size = {len(intervals)}",
    ]  # fmt: skip
    for number, (begin, end, text) in enumerate(intervals, start=1):
        quoted = text.replace('"', '""')
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {begin:.6f}",
            f"            xmax = {end:.6f}",
            f'            text = "{quoted}"',
        ]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Sequence[TimedWord], float], str]] = {
    ".json": as_json,
    ".srt": as_srt,
    ".textgrid": as_text_grid,
}
"""Ending of a file's name, in small letters -> how it is written."""


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Return ``path`` if times can be written there; ``UsageError`` before any work is done."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"'{path.suffix}' is no ending of a file with times of words.",
            str(path),
            "Use .json, .srt or .TextGrid.",
        )
    if not path.parent.is_dir():
        raise UsageError(
            "The folder does not exist.", str(path.parent), "Make it, or choose another."
        )
    if path.exists() and not overwrite:
        raise UsageError(
            "The file exists already.",
            str(path),
            "Choose another name, or say --force to replace it.",
        )
    return path


def write(path: Path, words: Sequence[TimedWord], seconds: float) -> None:
    """Write the times of all ``words`` of an audio of so many ``seconds``."""
    write_text(path, FORMATS[path.suffix.lower()](words, seconds))


def _clock(seconds: float) -> str:
    """Hours, minutes, seconds and milliseconds, as SRT has them."""
    total = round(1000 * seconds)
    minutes, milliseconds = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"
