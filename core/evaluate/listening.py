"""What an A/B measures of each checkpoint without speaking: losses, and whether it minds its text.

One line of ``listening.jsonl`` for each checkpoint as it is done, so that a run goes on where it
was stopped. The utterances are the same for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wishbone.core.evaluate.plan import Plan

FILE = "listening.jsonl"


def measure(plan: Plan, out: Path, progress: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Checkpoint -> its losses on each utterance, in nats per code; empty without held-out data.

    Raises ``DataError`` when the data cannot be read or holds no two sentences to exchange.
    """
    if not plan.held_out:
        return {}
    from wishbone.core.data.corpora import read_corpus
    from wishbone.core.evaluate.binding import utterances
    from wishbone.core.provenance import hash_files

    corpus = read_corpus(plan.held_out, plan.arms[0].config)
    asked = {"data": hash_files(corpus.files), "limit": plan.held_out_limit}
    path = out / FILE
    known = {row["checkpoint"]: row for row in _read(path) if asked.items() <= row.items()}
    todo = [each for each in plan.checkpoints if each.key not in known]
    for checkpoint in progress(todo, "held-out losses"):
        found = utterances(checkpoint.config, corpus, plan.held_out_limit)
        rounded = {name: [round(value, 6) for value in row] for name, row in found.items()}
        row = {"checkpoint": checkpoint.key, **asked, **rounded}
        known[checkpoint.key] = row
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return {each.key: known[each.key] for each in plan.checkpoints}


def _read(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            # the last line of a run that was killed while it wrote
            continue
    return rows
