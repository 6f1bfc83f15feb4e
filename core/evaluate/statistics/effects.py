"""Effects of factors, and of one factor on another's effect, from arms that are cells of a table.

With arms for every combination of levels, a factor has an effect within each combination of the
others (simple), on the average of them (main), and the difference between two of its simple effects
is the interaction. All are contrasts of the same arms, paired by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from wishbone.core.contract.extensions.metric import MetricInfo
from wishbone.core.evaluate.result import Effect, Outcome
from wishbone.core.evaluate.statistics.contrast import Tables
from wishbone.core.evaluate.statistics.study import Study
from wishbone.core.evaluate.statistics.verdict import Asked, ask, judge

KINDS = ("main", "interaction", "simple")
FAMILIES = (("main", "interaction"), ("simple",))
"""Kinds whose claims are corrected together."""


@dataclass(frozen=True)
class Question:
    """A question about the factors: levels that are set against each other, and where."""

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
) -> list[Question]:
    """Every main effect, interaction of two factors, and simple effect; cells are the arms'."""
    pairs = {name: list(combinations(levels, 2)) for name, levels in factors.items()}
    asking = []
    for name in factors:
        asking += [_question("main", {name: pair}, {}, cells) for pair in pairs[name]]
    for one, other in combinations(factors, 2):
        for first, second in product(pairs[one], pairs[other]):
            asking.append(_question("interaction", {one: first, other: second}, {}, cells))
    if len(factors) < 2:
        return asking
    for name in factors:
        others = [other for other in factors if other != name]
        for levels in product(*(factors[other] for other in others)):
            within = dict(zip(others, levels, strict=True))
            asking += [_question("simple", {name: pair}, within, cells) for pair in pairs[name]]
    return asking


def _question(
    kind: str,
    changed: Mapping[str, tuple[str, str]],
    within: Mapping[str, str],
    cells: Sequence[Mapping[str, str]],
) -> Question:
    signs = []
    for cell in cells:
        sign = float(all(cell[factor] == level for factor, level in within.items()))
        for factor, (low, high) in changed.items():
            sign *= {low: -1, high: 1}.get(cell[factor], 0)
        signs.append(sign)
    # the averaged levels of the factors that are neither changed nor held
    share = sum(1 for sign in signs if sign > 0) / 2 ** (len(changed) - 1)
    return Question(kind, dict(changed), dict(within), tuple(sign / share for sign in signs))


def effects(study: Study) -> list[Effect]:
    """All effects on all metrics.

    Main effects and interactions of the primary metrics are one family of claims, simple effects
    another; each is corrected as a whole.
    """
    asking = questions(study.factors, study.levels)
    claims: list[tuple[Question, MetricInfo, Tables]] = []
    for metric in study.metrics.values():
        tables = study.tables(list(study.arms), metric)
        if not tables.empty:
            claims += [(question, metric, tables) for question in asking]
    results: dict[int, tuple[Outcome, float | None]] = {}
    for family in FAMILIES:
        places = [n for n, (question, _, _) in enumerate(claims) if question.kind in family]
        asked = [_asked(*claims[n], study) for n in places]
        results |= dict(zip(places, judge(asked, study.alpha, study.quick), strict=True))
    return [
        Effect(
            metric=metric.key,
            kind=question.kind,
            changed=dict(question.changed),
            within=question.within,
            outcome=results[number][0],
            left_out=tables.left_out,
            p_holm=results[number][1],
        )
        for number, (question, metric, tables) in enumerate(claims)
    ]


def _asked(question: Question, metric: MetricInfo, tables: Tables, study: Study) -> Asked:
    used = [number for number, c in enumerate(question.coefficients) if c]
    coefficients = [question.coefficients[number] for number in used]
    arms = list(study.arms)
    return ask(
        Tables([tables.arms[n] for n in used], tables.weights, tables.left_out, tables.voices),
        coefficients,
        metric,
        study.withheld(metric, [arms[number] for number in used]),
        question.kind == "interaction",
    )
