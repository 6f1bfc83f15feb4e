"""What each factor does, and whether one changes what the other does, from arms that are cells.

With arms for every combination of levels, a factor has an effect within each combination of the
others (simple), on the average of them (main), and the difference between two of its simple effects
is the interaction. All are contrasts of the same arms, paired by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from wishbone.core.contract.metric import MetricInfo
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.statistics import paired
from wishbone.core.evaluate.statistics.contrast import contrast
from wishbone.core.evaluate.statistics.verdict import described

KINDS = ("main", "interaction", "simple")


@dataclass(frozen=True)
class Effect:
    """A question about the factors: which levels are set against which, and where."""

    kind: str
    """One of ``KINDS``."""
    changed: Mapping[str, tuple[str, str]]
    """Factor -> (from level, to level); two factors for an interaction."""
    within: Mapping[str, str]
    """Factor -> level that is held, for a simple effect; elsewhere all levels are averaged."""
    coefficients: tuple[float, ...]
    """One for each arm."""


def questions(
    factors: Mapping[str, Sequence[str]], cells: Sequence[Mapping[str, str]]
) -> list[Effect]:
    """Every main effect, interaction of two factors, and simple effect; cells are the arms'."""
    pairs = {name: list(combinations(levels, 2)) for name, levels in factors.items()}
    found = []
    for name in factors:
        found += [_effect("main", {name: pair}, {}, cells) for pair in pairs[name]]
    for one, other in combinations(factors, 2):
        for first, second in product(pairs[one], pairs[other]):
            found.append(_effect("interaction", {one: first, other: second}, {}, cells))
    if len(factors) < 2:
        return found
    for name in factors:
        others = [each for each in factors if each != name]
        for held in product(*(factors[each] for each in others)):
            within = dict(zip(others, held, strict=True))
            found += [_effect("simple", {name: pair}, within, cells) for pair in pairs[name]]
    return found


def _effect(
    kind: str,
    changed: Mapping[str, tuple[str, str]],
    within: Mapping[str, str],
    cells: Sequence[Mapping[str, str]],
) -> Effect:
    signs = []
    for cell in cells:
        sign = float(all(cell[factor] == level for factor, level in within.items()))
        for factor, (low, high) in changed.items():
            sign *= {low: -1, high: 1}.get(cell[factor], 0)
        signs.append(sign)
    # the averaged levels of the factors that are neither changed nor held
    share = sum(1 for sign in signs if sign > 0) / 2 ** (len(changed) - 1)
    return Effect(kind, dict(changed), dict(within), tuple(sign / share for sign in signs))


def effects(
    found: tuple[list[np.ndarray], np.ndarray, np.ndarray], plan: Plan, metric: MetricInfo
) -> list[dict[str, Any]]:
    """All effects on one metric, from the tables of all arms; Holm's p within each kind."""
    values, weights, whole = found
    if not whole.any():
        return []
    rows = []
    for asked in questions(plan.factors, [arm.levels for arm in plan.arms]):
        used = [number for number, c in enumerate(asked.coefficients) if c]
        result = contrast(
            [values[number] for number in used],
            [asked.coefficients[number] for number in used],
            weights,
        )
        rows.append(
            {
                "metric": metric.key,
                "kind": asked.kind,
                "changed": {factor: list(pair) for factor, pair in asked.changed.items()},
                "within": asked.within,
                **described(result, metric, plan.quick, asked.kind == "interaction"),
                "left_out": int((~whole).sum()),
            }
        )
    for kind in KINDS:
        own = {str(n): row["p"] for n, row in enumerate(rows) if row["kind"] == kind}
        for number, p in paired.holm(own).items():
            rows[int(number)]["p_holm"] = p
    return rows
