"""Single values as a result keeps them, and word errors counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wishbone.core.evaluate.experiment.items import UNMEASURED, Item, Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result import Nested, Raw
from wishbone.core.evaluate.result_parts import WordCounts
from wishbone.core.evaluate.statistics.metrics import weighs
from wishbone.core.evaluate.statistics.study import Losses, item_table

KINDS = ("substitutions", "deletions", "insertions")
"""Names of the counts of errors in an item's row."""


def of_items(items: Items, plan: Plan) -> dict[str, WordCounts]:
    """Word errors of every arm; empty where no recogniser listened."""
    counted = {}
    for arm in plan.arms:
        spoken = [
            item
            for checkpoint in arm.checkpoints
            for prompt in plan.prompts
            for repeat in range(plan.seeds)
            if (item := items.get(checkpoint.key, prompt.key, repeat)).row.get("words")
            and item.failure != UNMEASURED
        ]
        if spoken:
            counted[arm.key] = _counted(spoken)
    return counted


def _counted(spoken: Sequence[Item]) -> WordCounts:
    words = [int(item.row["words"]) for item in spoken]
    # a failed item was not listened to: every word is missing
    errors = [
        count if item.failed else int(item.row.get("errors", 0))
        for item, count in zip(spoken, words, strict=True)
    ]
    kinds = [errors_by_kind(item) for item in spoken]
    sums = [None] * 3 if None in kinds else np.sum(kinds, axis=0).tolist()
    capped = [min(wrong, count) for wrong, count in zip(errors, words, strict=True)]
    return WordCounts(
        words=sum(words),
        substitutions=sums[0],
        deletions=sums[1],
        insertions=sums[2],
        rate=100 * sum(capped) / sum(words),
        rate_raw=100 * sum(errors) / sum(words),
        full=sum(wrong >= count for wrong, count in zip(errors, words, strict=True)),
        items=len(spoken),
    )


def errors_by_kind(item: Item) -> list[int] | None:
    """Substitutions, deletions and insertions of an item; None where they were not told apart."""
    if item.failed:
        return [0, int(item.row.get("words") or 0), 0]
    if not all(kind in item.row for kind in KINDS):
        return None
    return [int(item.row[kind]) for kind in KINDS]


def of_raw(raw: Raw, arms: Mapping[str, Sequence[str]]) -> dict[str, WordCounts]:
    """Word errors of every arm, from capped rates: results of before other counts were kept."""
    counted = {}
    for arm, checkpoints in arms.items():
        rows = [raw.values.get("wer", {}).get(checkpoint, []) for checkpoint in checkpoints]
        pairs = [
            (rate, words)
            for row in rows
            for rates, words in zip(row, raw.words, strict=False)
            for rate in rates
            if rate is not None
        ]
        if pairs:
            total = sum(words for _, words in pairs)
            counted[arm] = WordCounts(
                words=round(total), substitutions=None, deletions=None, insertions=None,
                rate=sum(rate * words for rate, words in pairs) / total, rate_raw=None,
                full=sum(rate >= 100 for rate, _ in pairs), items=len(pairs),
            )  # fmt: skip
    return counted


def raw(items: Items, plan: Plan, losses: Losses) -> Raw:
    """Every single value, from which all else follows."""
    values: dict[str, dict[str, list]] = {
        key: {c.key: list(losses[c.key][key]) for c in plan.checkpoints} for key in plan.listening
    }
    weights: dict[str, list[float]] = {}
    for key, metric in plan.metrics.items():
        tables = {c.key: item_table(items, plan, c.key, metric) for c in plan.checkpoints}
        values[key] = {
            checkpoint: [[_finite(number) for number in row] for row in numbers.tolist()]
            for checkpoint, (numbers, _) in tables.items()
        }
        if weighs(metric):
            largest = np.max([row for _, row in tables.values()], axis=0)
            weights[key] = np.where(largest > 0, largest, 1).tolist()
    words = weights.pop("wer", [1.0] * len(plan.prompts))

    def of_items_by(read: Callable[[Item], Any]) -> dict[str, Nested]:
        return {
            c.key: [
                [read(items.get(c.key, prompt.key, repeat)) for repeat in range(plan.seeds)]
                for prompt in plan.prompts
            ]
            for c in plan.checkpoints
        }

    return Raw(
        values=values,
        words=words,
        weights=weights or None,
        failed=of_items_by(lambda item: item.failure),
        errors=of_items_by(errors_by_kind),
    )


def _finite(number: float) -> float | None:
    return round(number, 6) if np.isfinite(number) else None
