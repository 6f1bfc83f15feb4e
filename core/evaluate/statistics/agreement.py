"""Agreement of recognisers: of the words that either missed, the share that both did.

A word that one recogniser alone misses is rather that recogniser's error than the speech's, so
the share says how far word errors are a property of what is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from wishbone.core.contract.extensions.metric import AudioMetric, Row
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result_parts import Agreement
from wishbone.core.evaluate.statistics.metrics import metric_class


def recognisers(keys: Iterable[str]) -> dict[str, str]:
    """Metric -> name of its value with the words that were missed, for those that have one."""
    classes = {key: metric_class(key) for key in keys}
    return {
        key: cls.missed_words
        for key, cls in classes.items()
        if issubclass(cls, AudioMetric) and cls.missed_words
    }


def agreements(arm: str, rows: Sequence[Row], keys: Iterable[str]) -> list[Agreement]:
    """Compare every two recognisers of ``keys`` on the same items, failed ones left out."""
    pairs = combinations(recognisers(keys).items(), 2)
    return [
        _agreement(arm, [row for row in rows if not row.get("failure")], *pair) for pair in pairs
    ]


def agreement(items: Items, plan: Plan) -> list[Agreement]:
    """Compare recognisers in every arm of a run, and in the reference where there is one."""
    keys = {prompt.key for prompt in plan.prompts}
    sides = {arm.key: [checkpoint.key for checkpoint in arm.checkpoints] for arm in plan.arms}
    sides |= {"reference": ["reference"]} if plan.reference is not None else {}
    return [
        one
        for side, checkpoints in sides.items()
        for one in agreements(
            side,
            [i.row for name in checkpoints for i in items.of(name) if i.prompt in keys],
            plan.metrics,
        )
    ]


def _agreement(
    arm: str, rows: Sequence[Row], first: tuple[str, str], second: tuple[str, str]
) -> Agreement:
    both = only_first = only_second = 0
    for row in rows:
        if row.get(first[1]) is None or row.get(second[1]) is None:
            continue
        one, other = (set(str(row[name]).split()) for _, name in (first, second))
        both += len(one & other)
        only_first += len(one - other)
        only_second += len(other - one)
    return Agreement(
        arm=arm, metrics=(first[0], second[0]), both=both, only=(only_first, only_second)
    )
