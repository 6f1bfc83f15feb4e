"""Limits on a result: ``--fail-if "wer.high > 0.5"`` makes an A/B a gate of a test pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import gt, lt

from wishbone.core.contract.errors import GateFailed, UsageError, did_you_mean
from wishbone.core.evaluate.result import Comparison, Result

PLACE = "wishbone ab --fail-if"
FIELDS: dict[str, Callable[[Comparison], float | None]] = {
    "difference": lambda row: _change(row, row.outcome.difference),
    "low": lambda row: _change(row, _first(row.outcome.low_together, row.outcome.low)),
    "high": lambda row: _change(row, _first(row.outcome.high_together, row.outcome.high)),
    "value": lambda row: row.value,
    "baseline": lambda row: row.value_baseline,
    "p": lambda row: _first(row.p_holm, row.outcome.p),
}
"""Name -> what it is of a comparison with the baseline; ends are of the interval in the tables. The
change of a ratio is a share: 0.05 for 5 % more."""
SIGNS = {">": gt, "<": lt}


@dataclass(frozen=True)
class Limit:
    """A condition under which a result does not pass."""

    text: str
    metric: str
    field: str
    sign: str
    number: float

    def reached(self, row: Comparison) -> bool:
        """True where a comparison meets it; an end that is not known is beyond every number."""
        value = FIELDS[self.field](row)
        if value is None:
            return True
        return SIGNS[self.sign](value, self.number)


def read_limit(text: str) -> Limit:
    """Read ``METRIC.FIELD > NUMBER`` or ``<``. Raises ``UsageError``."""
    match = re.fullmatch(r"\s*([\w./-]+)\.(\w+)\s*([<>])\s*([-+.\deE]+)\s*", text)
    try:
        metric, field, sign, number = match.groups() if match else ("", "", "", "")
        if field not in FIELDS:
            raise ValueError(field)
        return Limit(text.strip(), metric, field, sign, float(number))
    except ValueError as error:
        raise UsageError(
            f"'{text}' is no limit.",
            PLACE,
            f"Write METRIC.FIELD > NUMBER, such as 'wer.high > 0.5'; fields: {', '.join(FIELDS)}.",
        ) from error


def check_metrics(limits: Sequence[Limit], metrics: Collection[str]) -> None:
    """Raise ``UsageError`` for a limit on a metric that will not be compared."""
    for limit in limits:
        if limit.metric not in metrics:
            raise UsageError(
                f"'{limit.metric}' is not compared. {did_you_mean(limit.metric, metrics)}".rstrip(),
                f"{PLACE} '{limit.text}'",
                f"Compared: {', '.join(metrics)}.",
            )


def hold(result: Result, limits: Sequence[Limit]) -> None:
    """Raise ``GateFailed`` where a comparison with the baseline reaches any of the limits.

    Raises ``UsageError`` for a limit on what was not compared.
    """
    reached = []
    check_metrics(limits, list(dict.fromkeys(row.metric for row in result.analysis.comparisons)))
    for limit in limits:
        rows = [row for row in result.analysis.comparisons if row.metric == limit.metric]
        reached += [f"{row.arm}: {limit.text}" for row in rows if limit.reached(row)]
    if reached:
        raise GateFailed(
            f"The result is beyond its limits: {'; '.join(reached)}.",
            PLACE,
            "Look into the report, or change the limit.",
        )


def _change(row: Comparison, number: float | None) -> float | None:
    return number - 1 if number is not None and row.outcome.ratio else number


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
