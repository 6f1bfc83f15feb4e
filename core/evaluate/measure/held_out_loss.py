"""Losses of each checkpoint on held-out token data, and its dependence on the text.

One line of ``listening.jsonl`` for each checkpoint as it is done, so that a run goes on where it
was stopped. The utterances are the same for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.contract.extensions.metric import HeldOut, ModelMetric
from wishbone.core.data.corpora import read_corpus
from wishbone.core.evaluate.experiment.arms import Checkpoint
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.measure import text_binding
from wishbone.core.evaluate.statistics.metrics import blamed, create, signature
from wishbone.core.weights.provenance import hash_files

FILE = "listening.jsonl"


def measure(
    plan: Plan,
    out: Path,
    progress: Callable[[Sequence[Checkpoint], str], Iterable[Checkpoint]],
) -> dict[str, dict[str, list[float]]]:
    """Checkpoint -> metric -> its value for each utterance; empty without held-out data.

    Raises ``DataError`` when the data cannot be read or holds no two sentences to exchange.
    """
    if not plan.held_out:
        return {}
    corpus = read_corpus(plan.held_out, plan.arms[0].config)
    metrics = _metrics(plan)
    conditions = {
        "data": hash_files(corpus.files),
        "limit": plan.held_out_limit,
        "signatures": signatures(plan),
    }
    path = out / FILE
    measured = {
        row["checkpoint"]: {key: row[key] for key in metrics}
        for row in _read(path)
        if conditions.items() <= row.items()
    }
    missing = [checkpoint for checkpoint in plan.checkpoints if checkpoint.key not in measured]
    for checkpoint in progress(missing, "held-out losses"):
        held_out = text_binding.held_out(checkpoint.config, corpus, plan.held_out_limit)
        values = {key: _values(metric, held_out) for key, metric in metrics.items()}
        row = {"checkpoint": checkpoint.key, **conditions, **values}
        measured[checkpoint.key] = values
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return {checkpoint.key: measured[checkpoint.key] for checkpoint in plan.checkpoints}


def signatures(plan: Plan) -> dict[str, str]:
    """Metric -> everything that decides it, in one line."""
    return {key: signature(metric) for key, metric in _metrics(plan).items()}


def _metrics(plan: Plan) -> dict[str, ModelMetric]:
    metrics = {key: create(key, plan.options.get(key)) for key in plan.listening}
    return {key: metric for key, metric in metrics.items() if isinstance(metric, ModelMetric)}


def _values(metric: ModelMetric, held_out: HeldOut) -> list[float]:
    """One finite number for each utterance."""
    with blamed(metric.info.key, "measuring a model"):
        values = [round(float(value), 6) for value in metric.measure(held_out)]
        if len(values) != len(held_out.samples) or not np.isfinite(values).all():
            raise ValueError(
                f"it gives {len(values)} numbers for {len(held_out.samples)} utterances, or one "
                "that is not finite"
            )
    return values


def _read(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            # the last line of a run that was killed while it wrote
            continue
    return rows
