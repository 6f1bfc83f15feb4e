"""A result in the terminal: its tables, then its sentences."""

from __future__ import annotations

from wishbone.core.evaluate.report import claims, tables
from wishbone.core.evaluate.report.wording import closing
from wishbone.core.evaluate.result import Result
from wishbone.core.report import table


def show(result: Result) -> None:
    """Print the tables of a result on standard output."""
    print(claims.headline(result))
    if result.costs.budget:
        table.show(tables.sizes(result))
    # with factors, single arms are in the report
    if result.factors:
        contents = [tables.cells(result), tables.effects(result)]
    else:
        contents = [tables.comparison(result, arm.key) for arm in result.arms[1:]]
    for content in contents:
        table.show(content)
    if result.parity:
        table.show(tables.parity(result))
    lines = [*claims.warnings(result), *claims.rules(result), *claims.advice(result)]
    for line in [*lines, *closing(result)]:
        print(line)
