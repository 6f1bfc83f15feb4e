"""Records of a result beside its verdicts: agreement of recognisers, kinds of sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Words that two recognisers missed in an arm's items, failed items left out."""

    arm: str
    metrics: tuple[str, str]
    both: int
    """Words that both missed."""
    only: tuple[int, int]
    """Words that the first, and that the second missed alone."""

    @property
    def share(self) -> float | None:
        """Of the words that either missed, the share that both did; None where none was missed."""
        either = self.both + sum(self.only)
        return self.both / either if either else None


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One metric of one arm against the baseline on one kind of sentence; exploratory."""

    kind: str
    metric: str
    arm: str
    prompts: int
    value_baseline: float
    value: float
    difference: float
    low: float
    high: float
