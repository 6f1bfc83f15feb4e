"""Does a long text stay good? The last minute of speech against the first one.

Where a minute ends lies inside a word, and nobody says in which. So the first minute's transcript
is held against the beginning of the text that fits it best, and the last minute's against the end
that does: edit distance with one end of the text free.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.cli.arguments import add_engine
from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.contract.metric import Clip
from wishbone.core.evaluate.measure.clips import read_audio, read_lines
from wishbone.core.evaluate.measure.score import RATE, Panel, Scorer
from wishbone.core.evaluate.measure.transcript import normalize

SEED = 1
LONGEST = 25.0
"""Seconds the recogniser gets at once; its own window is 30."""
QUIET = 0.1
"""Seconds over which the quietest place is searched for a cut."""


@dataclass(frozen=True)
class Stretch:
    """What was measured of one end of a recording."""

    errors: int
    """Words missed, changed and added."""
    words: int
    """Words of the text that fit it."""
    wer: float
    """Percent."""
    dnsmos: float
    heard: str


def errors_at_start(text: Sequence[str], heard: Sequence[str]) -> tuple[int, int]:
    """Least edits from any beginning of ``text`` to ``heard``, and the words of that beginning.

    Of several beginnings the longest counts, so that a word cut off at the end is not held against
    the speaker twice.
    """
    row = np.arange(len(heard) + 1)
    best = (int(row[-1]), 0)
    for number, word in enumerate(text, start=1):
        same = np.array([word != other for other in heard], int)
        above = np.minimum(row[:-1] + same, row[1:] + 1)
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
    words, found = normalize(text).split(), normalize(transcript).split()
    if last:
        words, found = words[::-1], found[::-1]
    errors, count = errors_at_start(words, found)
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


def add_parser(commands: Any, common: Any) -> None:
    """``wishbone evaluate drift``."""
    parser = commands.add_parser("drift", help="a long text: its last minute against its first")
    parser.add_argument("system", help="a system's name or file, or one recording")
    parser.add_argument("--text", type=Path, help="what is read (the bundled prompts in a row)")
    parser.add_argument("--voice", help="voice the system speaks with")
    parser.add_argument("--minutes", type=float, default=5.0, help="of speech, about (5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each stretch (60)")
    parser.add_argument("--out", type=Path, help="keep the recording here (.flac)")
    add_engine(parser)
    parser.add_argument("--drift-most", type=float, help="fail beyond so many points of error")
    common(parser, run)


def run(options: argparse.Namespace) -> int:
    """Speak or read one long recording and compare its ends."""
    from wishbone.core.evaluate.measure.output import keep

    clip = _recording(options)
    panel = Panel(1)
    first, last, like = measure(panel.first, clip, options.seconds)
    for name, found in (("first", first), ("last", last)):
        print(
            f"{name} {options.seconds:g} s: word errors {found.wer:.1f} % ({found.errors} of"
            f" {found.words})  DNSMOS {found.dnsmos:.2f}"
        )
    drift = last.wer - first.wer
    print(f"{clip.seconds:.0f} s of speech: drift {drift:+.1f} points, likeness {like:.3f}")
    found = {"seconds": clip.seconds, "first": asdict(first), "last": asdict(last)}
    keep(options.json, panel, found | {"drift": drift, "similarity": like})
    if options.drift_most is not None and drift > options.drift_most:
        raise GateFailed(
            f"Word errors grew by {drift:.1f} points, at most {options.drift_most:g}.",
            "wishbone evaluate drift",
            "Listen to the end of the recording, and train on or change the limit.",
        )
    return 0


def _recording(options: argparse.Namespace) -> Clip:
    from wishbone.core.evaluate.experiment import generate
    from wishbone.core.evaluate.measure import speech

    lines = read_lines(options.text or speech.own_prompts())
    if Path(options.system).is_file() and Path(options.system).suffix not in (".yaml", ".yml"):
        return Clip("long", " ".join(lines), *read_audio(Path(options.system)))
    from wishbone.core.speak.speaker import load

    system = load(options.system, engine=options.engine)
    text, rate = _text(lines, options.minutes), system.decoder.sample_rate
    # half of real time on a busy machine, and a minute for the first sentence
    row, audio = generate.speak(system, text, SEED, options.voice, 60 + 120 * options.minutes)
    if row["failure"]:
        raise GateFailed(
            f"The text was not spoken to its end: {row['failure']} {row['error']}".strip() + ".",
            "wishbone evaluate drift",
            "Listen to what there is with --out, or give a shorter text.",
        )
    if options.out:
        generate.write(options.out, audio, rate)
    return Clip("long", text, audio, rate)


def _text(lines: Sequence[str], minutes: float) -> str:
    """So many lines, from the beginning again if need be, as take about so long to read."""
    # 15 characters a second, as the bundled sentences are read
    wanted, text = minutes * 60 * 15, ""
    while len(text) < wanted:
        for line in lines:
            text = f"{text} {line}".strip()
            if len(text) >= wanted:
                break
    return text
