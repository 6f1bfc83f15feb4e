"""The charts of an A/B's result: differences, cells of an experiment, growth with length."""

from __future__ import annotations

from wishbone.core.evaluate.report import tables
from wishbone.core.evaluate.result import MetricFacts, Result
from wishbone.core.report import charts


def draw(result: Result) -> dict[str, str]:
    """Draw the charts of a result's page -> name and SVG: metrics over the cells, and length."""
    drawings = {"figures": cells(result)} if result.factors else {}
    return drawings | ({"length": length(result)} if result.costs.length else {})


def forest(result: Result, arm: str) -> str:
    """Draw the differences of one arm from the baseline, in margins."""
    rows = [
        charts.Row(
            result.metrics[comparison.metric].title,
            *comparison.outcome.in_margins,
            colour=charts.VERDICTS.get(comparison.outcome.verdict, charts.SOFT),
        )
        for comparison in result.analysis.comparisons
        # what has no margin cannot be drawn in units of it
        if comparison.arm == arm and comparison.outcome.in_margins[0] is not None
    ]
    return charts.forest(rows)


def cells(result: Result) -> str:
    """Draw every metric in every cell of an experiment.

    Colours are the levels of the first factor; the levels of the others stand from left to right.
    """
    first, *others = result.factors
    columns = tables.levels_of(result, others)
    panels = [_panel(result, key, metric, columns) for key, metric in result.metrics.items()]
    names = [", ".join(levels.values()) for levels in columns]
    return charts.panels(panels, result.factors[first], names, "Every metric in every cell")


def _panel(
    result: Result, key: str, metric: MetricFacts, columns: list[dict[str, str]]
) -> charts.Panel:
    first = next(iter(result.factors))
    intervals = []
    for column, levels in enumerate(columns):
        for series, level in enumerate(result.factors[first]):
            arm = tables.arm_at(result, {first: level, **levels})
            estimate = result.analysis.values[arm].get(key)
            trainings = result.analysis.checkpoints[arm].get(key) or []
            dots = [value for value in trainings if value is not None]
            if estimate:
                intervals.append(
                    charts.Cell(
                        column, series, estimate.value, estimate.low, estimate.high,
                        dots if len(trainings) > 1 else (),
                    )
                )  # fmt: skip
    better = "" if metric.better == "neither" else f", {metric.better} is better"
    title = f"{metric.title} ({metric.unit}{better})"
    return charts.Panel(title, metric.digits, intervals)


def length(result: Result) -> str:
    """Draw the time of a step and the size of the state over the seconds spoken so far."""
    colours = {arm.key: charts.colour(place) for place, arm in enumerate(result.arms)}
    across = "seconds of audio so far"
    times = {
        arm: [(cost.seconds, cost.step_ms) for cost in costs]
        for arm, costs in result.costs.length.items()
    }
    states = {
        arm: [(cost.seconds, cost.state_bytes * (1 / 1024**2)) for cost in costs]
        for arm, costs in result.costs.length.items()
    }
    plots = [
        charts.Plot("Time of one step", "milliseconds", across, times, colours),
        charts.Plot("Size of the state", "MiB", across, states, colours),
    ]
    return charts.lines(plots, "Speed and memory against length")
