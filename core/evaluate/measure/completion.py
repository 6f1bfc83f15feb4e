"""Count sentences that do not begin or end, over many sentences and several draws of each.

An empty answer or one that never stops is rare in a trained model, so it takes thousands of
utterances to say how rare; they are spoken as a batch and judged by their length and level alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wishbone.core.contract.extensions.metric import Row
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.record import record_json
from wishbone.core.speak.server import Server
from wishbone.core.system.system import System

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
