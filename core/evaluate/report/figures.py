"""The charts of an A/B's result: differences, cells of an experiment, growth with length."""

from __future__ import annotations

from dataclasses import replace

from wishbone.core.evaluate.report import tables
from wishbone.core.evaluate.result import Estimate, MetricFacts, Result
from wishbone.core.report import charts


def draw(result: Result) -> dict[str, str]:
    """Draw the charts of a result's page -> name and SVG: metrics over the cells, and length."""
    drawings = {"figures": cells(result)} if result.factors else {}
    return drawings | ({"length": length(result)} if result.costs.length else {})


def forest(result: Result, arm: str) -> str:
    """Draw the differences of one arm from the baseline, in margins; "" where none has any."""
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
    return charts.forest(rows) if rows else ""


QUALITY = ("wer", "dnsmos")
"""Metrics that the plane of trade-offs may show upward; the first that was measured is shown."""
SPEED = ("processor_rtf", "rtf")
"""Metrics that it may show to the right, likewise."""


def trade_offs(result: Result) -> str:
    """Draw quality against work and against memory, a point for each arm; "" without both.

    Memory is the state after the longest audio that was measured, by the backbone's formula.
    """
    values = result.analysis.values
    quality = next((key for key in QUALITY if _all_have(result, key)), "")
    speed = next((key for key in SPEED if _all_have(result, key)), "")
    if not quality or not speed:
        return ""
    metric, cost = result.metrics[quality], result.metrics[speed]
    upward = {arm.key: _ends(values[arm.key][quality]) for arm in result.arms}
    across = {arm.key: _ends(values[arm.key][speed]) for arm in result.arms}
    drawn = [_plane("Quality against work", f"{cost.title} ({cost.unit})", metric, across, upward)]
    lengths = result.costs.length
    if lengths and all(lengths.get(arm.key) for arm in result.arms):
        longest = {key: max(costs, key=lambda c: c.seconds) for key, costs in lengths.items()}
        seconds = max(cost.seconds for cost in longest.values())
        states = {key: (cost.state_bytes / 1024**2,) * 3 for key, cost in longest.items()}
        title = f"state after {seconds:g} s (MiB)"
        if all(state[0] > 0 for state in states.values()):
            plane = _plane("Quality against memory", title, metric, states, upward)
            drawn.append(replace(plane, logarithmic=True))
    colours = {arm.key: charts.colour(place) for place, arm in enumerate(result.arms)}
    return charts.planes(drawn, colours, "Quality against work and memory")


def _all_have(result: Result, key: str) -> bool:
    return key in result.metrics and all(
        result.analysis.values[arm.key].get(key) for arm in result.arms
    )


def _ends(estimate: Estimate | None) -> tuple[float, float, float]:
    """Estimate, low and high; an end that is not known is the estimate."""
    assert estimate is not None
    low = estimate.value if estimate.low is None else estimate.low
    return estimate.value, low, estimate.value if estimate.high is None else estimate.high


def _plane(
    title: str,
    across: str,
    metric: MetricFacts,
    places: dict[str, tuple[float, float, float]],
    upward: dict[str, tuple[float, float, float]],
) -> charts.Plane:
    return charts.Plane(
        title,
        across,
        f"{metric.title} ({metric.unit})",
        [charts.Point(name, places[name], upward[name]) for name in upward],
        upward_is_better=metric.better == "higher",
    )


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
