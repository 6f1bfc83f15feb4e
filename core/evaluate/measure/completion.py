"""Does every sentence begin and end? Many sentences, several draws of each, nobody listening.

An empty answer or one that never stops is rare in a trained model, so it takes thousands of
utterances to say how rare; they are spoken as a batch and judged by their length and level alone.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wishbone.core.cli.arguments import add_engine
from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.measure.clips import read_lines
from wishbone.core.evaluate.report.terminal import progress

if TYPE_CHECKING:
    from wishbone.core.system.system import System

RULE_OF_THREE = 3.0
"""None seen in n makes a rate of 3 / n the 95 % upper limit (Hanley & Lippman-Hand 1983)."""


def endings(
    system: System, texts: list[str], seeds: int, voice: str | None = None, slots: int = 8
) -> Iterator[dict[str, Any]]:
    """Every text with seeds 0 to ``seeds`` - 1, in this order; ``slots`` of them at once.

    A text that cannot be said is a row like any other, with its error.
    """
    from wishbone.core.speak.server import Server

    server = Server(system, slots)

    def said(request: tuple[int, str]) -> dict[str, Any]:
        seed, text = request
        patience = slots * generate.PATIENCE
        return {"text": text, **generate.speak(system, text, seed, voice, patience, server)[0]}

    threads = ThreadPoolExecutor(slots, "wishbone-endings")
    try:
        yield from threads.map(said, [(seed, text) for seed in range(seeds) for text in texts])
    finally:
        threads.shutdown(cancel_futures=True)


def summary(rows: Iterable[dict[str, Any]]) -> list[str]:
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


def add_parser(commands: Any, common: Any) -> None:
    """``wishbone evaluate endings``."""
    parser = commands.add_parser("endings", help="does every sentence begin, and end?")
    parser.add_argument("system", help="a system's name or file")
    parser.add_argument("--text", type=Path, help="one sentence a line (the bundled prompts)")
    parser.add_argument("--seeds", type=int, default=5, help="draws of every sentence (5)")
    parser.add_argument("--slots", type=int, default=8, help="spoken at once (8)")
    parser.add_argument("--voice", help="voice the system speaks with")
    add_engine(parser)
    parser.add_argument("--failures-most", type=int, help="fail beyond so many failed utterances")
    common(parser, run)


def run(options: argparse.Namespace) -> int:
    """Speak everything, count what went wrong, and hold it against the limit."""
    from wishbone.core.evaluate.measure import speech
    from wishbone.core.evaluate.measure.output import write_json
    from wishbone.core.speak.pipeline import stream
    from wishbone.core.speak.speaker import load

    texts = read_lines(options.text or speech.own_prompts())[: options.limit]
    if not texts or options.seeds < 1 or options.slots < 1:
        raise UsageError(
            "There is nothing to say.",
            "wishbone evaluate endings",
            "Give a text with one sentence a line, and one seed and slot or more.",
        )
    system = load(options.system, engine=options.engine)
    # a wrong voice is one error at once and not a failure of every utterance
    next(stream(system, generate.WARM_UP, options.voice, 0))
    wanted = range(len(texts) * options.seeds)
    made = endings(system, texts, options.seeds, options.voice, options.slots)
    rows = [row for _, row in zip(progress(wanted, "speaking"), made, strict=True)]
    for row in rows if options.items else [row for row in rows if row["failure"]]:
        why = f"{row['failure']} {row['error']}".strip()
        print(f"seed {row['seed']}  {row['seconds']:.2f} s  {why}  {row['text']}")
    for line in summary(rows):
        print(line)
    write_json(options.json, {"items": rows})
    failed = sum(bool(row["failure"]) for row in rows)
    if options.failures_most is not None and failed > options.failures_most:
        raise GateFailed(
            f"{failed} of {len(rows)} utterances failed, at most {options.failures_most} may.",
            "wishbone evaluate endings",
            "Listen to the sentences above with 'wishbone say', and train on or change the limit.",
        )
    return 0
