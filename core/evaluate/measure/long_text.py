"""Quality of a long text: the last minute of speech against the first one.

Where a minute ends lies inside a word, and nobody says in which. So the first minute's transcript
is held against the beginning of the text that fits it best, and the last minute's against the end
that does: edit distance with one end of the text free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.contract.extensions.metric import Clip
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.measure.score import RATE, Scorer
from wishbone.core.evaluate.measure.transcript import compared
from wishbone.core.system.system import System

SEED = 1
LONGEST = 25.0
"""Seconds the recogniser gets at once; its own window is 30."""
QUIET = 0.1
"""Seconds over which the quietest place is searched for a cut."""


@dataclass(frozen=True)
class Stretch:
    """Measurements of one end of a recording."""

    errors: int
    """Words missed, changed and added."""
    words: int
    """Words of the text that fit it."""
    wer: float
    """Percent."""
    dnsmos: float
    heard: str


def errors_at_start(text: Sequence[str], transcript: Sequence[str]) -> tuple[int, int]:
    """Least edits from any beginning of ``text`` to ``transcript``, and that beginning's words.

    Of several beginnings the longest counts, so that a word cut off at the end is not held against
    the speaker twice.
    """
    row = np.arange(len(transcript) + 1)
    best = (int(row[-1]), 0)
    for number, word in enumerate(text, start=1):
        changed = np.array([word != other for other in transcript], int)
        above = np.minimum(row[:-1] + changed, row[1:] + 1)
        row = np.concatenate([[number], above])
        # insertions run along the row: a running minimum of what is left after counting places
        places = np.arange(len(row))
        row = np.minimum.accumulate(row - places) + places
        if row[-1] <= best[0]:
            best = (int(row[-1]), number)
    return best


def cut(audio: np.ndarray, rate: int) -> list[np.ndarray]:
    """audio [S] in pieces of at most ``LONGEST`` seconds, cut where it is quietest."""
    pieces, size = [], max(1, int(QUIET * rate))
    while len(audio) > LONGEST * rate:
        window = audio[int(0.6 * LONGEST * rate) : int(LONGEST * rate)]
        power = np.convolve(np.square(window, dtype=np.float64), np.ones(size), "same")
        place = int(0.6 * LONGEST * rate) + int(power.argmin())
        pieces.append(audio[:place])
        audio = audio[place:]
    return [*pieces, audio]


def stretch(scorer: Scorer, audio: np.ndarray, text: str, last: bool) -> Stretch:
    """Measure audio [S] at 16 kHz that is the beginning of ``text`` or, with ``last``, its end."""
    pieces = [Clip("piece", "", piece, RATE) for piece in cut(audio, RATE)]
    transcript = " ".join(str(scorer.measure("wer", piece)["heard"]) for piece in pieces)
    words, recognised = compared(text, transcript)
    if last:
        words, recognised = words[::-1], recognised[::-1]
    errors, count = errors_at_start(words, recognised)
    quality = float(scorer.measure("dnsmos", Clip("stretch", text, audio, RATE))["dnsmos"])
    return Stretch(errors, count, 100 * errors / max(1, count), quality, transcript)


def measure(scorer: Scorer, clip: Clip, seconds: float = 60.0) -> tuple[Stretch, Stretch, float]:
    """First and last stretch of a recording, and how like the first the last one's voice is.

    Raises ``UsageError`` when the two would overlap.
    """
    if clip.seconds < 2 * seconds:
        raise UsageError(
            f"{clip.seconds:.0f} s are not two stretches of {seconds:g} s.",
            "wishbone evaluate drift",
            "Give a longer text, or less --seconds.",
        )
    audio, length = clip.at(RATE), int(seconds * RATE)
    first, last = audio[:length], audio[-length:]
    scorer.set_reference([Clip("first", clip.text, first, RATE)])
    like = float(scorer.measure("similarity", Clip("last", clip.text, last, RATE))["similarity"])
    return (
        stretch(scorer, first, clip.text, last=False),
        stretch(scorer, last, clip.text, last=True),
        like,
    )


def read_aloud(
    system: System, lines: Sequence[str], minutes: float, voice: str | None, out: Path | None = None
) -> Clip:
    """Speak ``lines`` in one go, from the beginning again if need be, for about ``minutes``.

    The recording is also written to ``out``. Raises ``GateFailed`` where the system does not reach
    the end of the text.
    """
    text, rate = _text(lines, minutes), system.decoder.sample_rate
    # half of real time on a busy machine, and a minute for the first sentence
    generation, audio = generate.speak(system, text, SEED, voice, 60 + 120 * minutes)
    if generation.failure:
        raise GateFailed(
            f"The text was not spoken to its end: {generation.failure} {generation.error}".strip()
            + ".",
            "wishbone evaluate drift",
            "Listen to what there is with --out, or give a shorter text.",
        )
    if out:
        generate.write(out, audio, rate)
    return Clip("long", text, audio, rate)


def _text(lines: Sequence[str], minutes: float) -> str:
    """So many lines, from the beginning again if need be, as take about so long to read."""
    # 15 characters a second, as the bundled sentences are read
    length, text = minutes * 60 * 15, ""
    while len(text) < length:
        for line in lines:
            text = f"{text} {line}".strip()
            if len(text) >= length:
                break
    return text
