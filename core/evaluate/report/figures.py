"""The charts of an A/B's result: differences, cells of an experiment, growth with length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wishbone.core.evaluate.report import tables
from wishbone.core.report import charts

Result = Mapping[str, Any]


def draw(result: Result) -> dict[str, str]:
    """Name -> SVG of the charts on a result's page: every metric over the cells, and length."""
    drawn = {"figures": cells(result)} if result["factors"] else {}
    return drawn | ({"length": length(result)} if result.get("length") else {})


def forest(result: Result, arm: str) -> str:
    """Draw the differences of one arm from the baseline, in margins."""
    rows = [
        charts.Row(
            result["metrics"][each["metric"]]["title"],
            *each["in_margins"],
            colour=charts.VERDICTS.get(each["verdict"], charts.SOFT),
        )
        for each in result["comparisons"]
        if each["arm"] == arm
    ]
    return charts.forest(rows)


def cells(result: Result) -> str:
    """Draw every metric in every cell of an experiment.

    Colours are the levels of the first factor; the levels of the others stand from left to right.
    """
    first, *others = result["factors"]
    columns = tables.levels_of(result, others)
    drawn = []
    for key, metric in result["metrics"].items():
        marks = []
        for column, levels in enumerate(columns):
            for series, level in enumerate(result["factors"][first]):
                arm = tables.arm_at(result, {first: level, **levels})
                value = result["values"][arm].get(key)
                if value:
                    trainings = result["checkpoints"][arm].get(key) or []
                    dots = [each for each in trainings if each is not None]
                    marks.append(
                        charts.Cell(
                            column, series, value["value"], value["low"], value["high"],
                            dots if len(trainings) > 1 else (),
                        )
                    )  # fmt: skip
        title = f"{metric['title']} ({metric['unit']}, {metric['better']} is better)"
        drawn.append(charts.Panel(title, metric["digits"], marks))
    names = [", ".join(levels.values()) for levels in columns]
    return charts.panels(drawn, result["factors"][first], names, "Every metric in every cell")


def length(result: Result) -> str:
    """Draw the time of a step and the size of the state over the seconds spoken so far."""
    colours = {arm["key"]: charts.colour(place) for place, arm in enumerate(result["arms"])}

    def plot(key: str, scale: float, title: str, unit: str) -> charts.Plot:
        series = {
            arm: [(row["seconds"], row[key] * scale) for row in rows]
            for arm, rows in result["length"].items()
        }
        return charts.Plot(title, unit, "seconds of audio so far", series, colours)

    plots = [
        plot("step_ms", 1, "Time of one step", "milliseconds"),
        plot("state_bytes", 1 / 1024**2, "Size of the state", "MiB"),
    ]
    return charts.lines(plots, "Speed and memory against length")
