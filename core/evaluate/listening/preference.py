"""Strengths of systems from paired preferences with ties: the model of Bradley, Terry and Davidson.

Davidson 1970, "On Extending the Bradley-Terry Model to Accommodate Ties in Paired Comparison
Experiments": of systems with strengths a and b, a is preferred with a chance in proportion to a, b
to b, and neither to v sqrt(a b). Fitted to all pairs at once, so that systems that never met are
compared by way of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

PRIOR = 0.1
"""Votes added to each outcome of each pair, so that a system that always wins has a strength."""
STEPS = 30
"""Newton's steps; five are enough unless a system nearly always wins."""
POINTS = 400 / np.log(10)
"""Points of a scale like Elo's for each unit of the logarithm of strength."""


def pairs_of(systems: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of systems, in their order."""
    return list(combinations(systems, 2))


def counts(outcomes: np.ndarray, pairs: int, weights: np.ndarray) -> np.ndarray:
    """Count wins of the first, of the second, and ties [D, P, 3] of votes with weights [D, N].

    ``outcomes`` [N] are 3 * pair + 0, 1 or 2.
    """
    table = np.zeros((len(outcomes), 3 * pairs))  # [N, 3P]
    table[np.arange(len(outcomes)), outcomes] = 1
    return (weights @ table).reshape(len(weights), pairs, 3)


def strengths(table: np.ndarray, systems: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit the model to table [D, P, 3] -> log strengths [D, S] of mean 0, and log v [D].

    The table is that of ``counts``. Maximum likelihood by Newton's method, for all D tables at
    once. Without a single tie, v is about 0 and means nothing.
    """
    design = _design(systems)  # [P, 3, S]: S - 1 strengths, the first being 0, and log v
    observed = table + PRIOR  # [D, P, 3]
    total = observed.sum(2)  # [D, P]
    beta = np.zeros((len(table), systems))  # [D, S]
    for _ in range(STEPS):
        eta = np.einsum("pok,dk->dpo", design, beta)  # [D, P, 3]
        chance = np.exp(eta - eta.max(2, keepdims=True))  # [D, P, 3]
        chance /= chance.sum(2, keepdims=True)
        gradient = np.einsum("dpo,pok->dk", observed - total[..., None] * chance, design)  # [D, S]
        mean = np.einsum("dpo,pok->dpk", chance, design)  # [D, P, S]
        second = np.einsum("dp,dpo,pok,pol->dkl", total, chance, design, design)  # [D, S, S]
        curvature = second - np.einsum("dp,dpk,dpl->dkl", total, mean, mean)  # [D, S, S]
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]  # [D, S]
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    theta = np.concatenate([np.zeros((len(beta), 1)), beta[:, :-1]], axis=1)  # [D, S]
    return theta - theta.mean(1, keepdims=True), beta[:, -1]


def _design(systems: int) -> np.ndarray:
    """Make the outcomes' linear terms [P, 3, S]: first wins, second wins, tie."""
    rows = []
    for one, other in combinations(range(systems), 2):
        first, second = np.zeros(systems), np.zeros(systems)
        if one:
            first[one - 1] = 1
        second[other - 1] = 1
        tie = (first + second) / 2
        tie[-1] = 1
        rows.append([first, second, tie])
    return np.array(rows)
