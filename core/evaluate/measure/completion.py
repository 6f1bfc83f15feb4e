"""Count sentences that do not begin or end, over many sentences and several draws of each.

An empty answer or one that never stops is rare in a trained model, so it takes thousands of
utterances to say how rare; they are spoken as a batch and judged by their length and level alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from wishbone.core.contract.extensions.metric import Clip, Row
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.record import record_json
from wishbone.core.evaluate.statistics.metrics import metric_class, value
from wishbone.core.report.table import Table
from wishbone.core.speak import text_to_speech
from wishbone.core.speak.server import Server
from wishbone.core.speak.utterance import Utterance
from wishbone.core.speak.voice import find
from wishbone.core.system.system import System

SHORT_TEXTS = tuple("Hi. No. Stop! Hello. Wonderful! Yes. Why? One. Thanks. Sure.".split())
"""Texts of one word."""
LOST = 0.2
"""Seconds; a text of one word that is shorter was lost."""
AROUND = 0.5
"""Seconds of silence around what a recogniser hears."""
RULE_OF_THREE = 3.0
"""None seen in n makes a rate of 3 / n the 95 % upper limit (Hanley & Lippman-Hand 1983)."""


def endings(
    system: System, texts: list[str], seeds: int, voice: str | None = None, slots: int = 8
) -> Iterator[dict[str, Any]]:
    """Every text with seeds 0 to ``seeds`` - 1, in this order; ``slots`` of them at once.

    A text that cannot be said is a row like any other, with its error.
    """
    server = Server(system, slots)

    def speak(request: tuple[int, str]) -> dict[str, Any]:
        seed, text = request
        patience = slots * generate.PATIENCE
        generation, _ = generate.speak(system, text, seed, voice, patience, server)
        return {"text": text, **record_json(generation)}

    threads = ThreadPoolExecutor(slots, "wishbone-endings")
    try:
        yield from threads.map(speak, [(seed, text) for seed in range(seeds) for text in texts])
    finally:
        threads.shutdown(cancel_futures=True)


def short_texts(
    system: System, panel: Panel, texts: Sequence[str], voices: Sequence[str], seeds: int
) -> Iterator[dict[str, Any]]:
    """Every voice ("" for the system's own) says every text with every seed -> judged rows.

    The recognisers, which often miss what begins at once, hear ``AROUND`` of silence at both ends.
    """
    rate, clips, rows = system.decoder.sample_rate, list[Clip](), list[dict[str, Any]]()
    around = np.zeros(round(AROUND * rate), np.float32)  # [S]
    for name in voices:
        voice = find(name or None, system)
        for text, seed in [(text, seed) for text in texts for seed in range(seeds)]:
            record: list[Utterance] = []
            audio = text_to_speech.say(system, text, voice, seed, record).samples.numpy()  # [S]
            key, padded = f"{name} {text} {seed}", np.concatenate([around, audio, around])
            clips.append(Clip(key, text, padded, rate))
            redraws = sum(len(utterance.redraws) for utterance in record)
            seconds = len(audio) / rate
            rows.append({"voice": name, "seed": seed, "seconds": seconds, "redraws": redraws})
    scores = panel.map(lambda scorer, clip: scorer.score(clip), clips)
    for row, score in zip(rows, scores, strict=True):
        yield {**score, **row}


def short_table(rows: Sequence[Row], judges: Sequence[str]) -> Table:
    """A line for each voice and one for all: lost, heard right by each recogniser and by all.

    ``judges`` are keys of metrics such as ``wer``.
    """

    def line(name: str, part: Sequence[Row]) -> list[str]:
        right = [[value(row, metric_class(key).info) == 0 for key in judges] for row in part]
        counts = [sum(row["seconds"] < LOST for row in part)]
        counts += [sum(column) for column in zip(*right, strict=True)]
        counts += [sum(map(all, right))] if judges else []
        redraws = sum(row["redraws"] for row in part)
        return [name, *(f"{count} of {len(part)}" for count in counts), str(redraws)]

    voices = dict.fromkeys(row["voice"] for row in rows)
    lines = [line(name or "its own", [r for r in rows if r["voice"] == name]) for name in voices]
    right = [*(f"right by {key}" for key in judges), *["right by all"] * bool(judges)]
    head = ["voice", f"lost (< {LOST:g} s)", *right, "redraws"]
    return Table("", head, [*lines, line("all", rows)])


def summary(rows: Iterable[Row]) -> list[str]:
    """Lines for people."""
    rows = list(rows)
    bad = Counter(row["failure"] for row in rows if row["failure"])
    pace = sorted(1000 * row["seconds"] / len(row["text"]) for row in rows)
    cut = sum(row["cut_words"] for row in rows)
    lines = [
        f"{len(rows)} utterances, {sum(row['seconds'] for row in rows) / 3600:.2f} h:"
        f" {sum(bad.values())} failed"
        + "".join(f", {count} {why}" for why, count in sorted(bad.items())),
        f"milliseconds of audio a character: {pace[0]:.0f} least, {pace[len(pace) // 2]:.0f}"
        f" median, {pace[-1]:.0f} most; words ended by the length rule: {cut}",
    ]
    if not bad:
        lines.append(f"so at most {100 * RULE_OF_THREE / len(rows):.2f} % fail (95 %)")
    return lines
