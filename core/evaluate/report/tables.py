"""A result's tables as rows of text: the same in the HTML report and on a Markdown page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wishbone.core.evaluate.experiment import budget
from wishbone.core.evaluate.report import wording

Result = Mapping[str, Any]
LENGTHS = (0.0, 10.0, 80.0)
"""Seconds of audio behind a step at which the table of lengths shows it; plots show all."""


TRAININGS = "Each training on its own, in the order of seeds"
LENGTH = "Speed and memory against length"


@dataclass(frozen=True)
class Table:
    """Something to print."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_text(data: Any) -> str:
    """JSON with a line for each key, lists of plain values in one line each."""
    text = json.dumps(data, indent=1, ensure_ascii=False)

    def short(found: re.Match[str]) -> str:
        return re.sub(r"\n\s*", " ", found[0]).replace("[ ", "[", 1)[:-2] + "]"

    # a line break inside a string is written as \n, so these are the lists' own
    return re.sub(r"\[\n[^\[\]{}]*\n\s*\]", short, text) + "\n"


def cells(result: Result) -> Table:
    """Every metric in every cell: rows are the levels of the second factor, columns of the first.

    With two levels of the first factor its effect in each row stands beside them.
    """
    columns, *rest = result["factors"]
    levels = result["factors"][columns]
    rows = []
    for key, metric in result["metrics"].items():
        for held in levels_of(result, rest):
            shown = [_cell(result, {columns: level, **held}, key, metric) for level in levels]
            row = [f"{metric['title']} ({metric['unit']})", ", ".join(held.values()), *shown]
            if len(levels) == 2:
                effect = _find(result, key, "simple" if rest else "main", held)
                row += _said(effect, metric) if effect else ["-"] * 4
            rows.append(row)
    head = ["", " and ".join(rest), *levels]
    if len(levels) == 2:
        head += [f"{levels[1]} - {levels[0]}", "95 % interval", "p", "verdict"]
    return Table(f"{' and '.join([*rest, columns])}, with 95 % intervals", head, rows)


def effects(result: Result, kinds: Sequence[str] = ("main", "interaction")) -> Table:
    """Main effects and interactions of every metric."""
    rows = []
    for key, metric in result["metrics"].items():
        for effect in result["effects"]:
            if effect["metric"] == key and effect["kind"] in kinds:
                title = f"{metric['title']} ({metric['unit']})"
                rows.append([title, wording.effect_title(effect), *_said(effect, metric)])
    head = ["", "effect", "change", "95 % interval", "p", "verdict"]
    return Table(f"{' and '.join(f'{kind} effects' for kind in kinds)}".capitalize(), head, rows)


def trainings(result: Result) -> Table:
    """Each training's own figures."""
    rows = [
        [arm["key"], *(_each(result, arm["key"], key) for key in result["metrics"])]
        for arm in result["arms"]
    ]
    titles = [f"{metric['title']} ({metric['unit']})" for metric in result["metrics"].values()]
    return Table(TRAININGS, ["", *titles], rows)


def lengths(result: Result) -> Table:
    """Time of a step and size of the state at some lengths, and a process's peak of memory."""
    found = result.get("length") or {}
    rows = []
    for arm in result["arms"]:
        at = {row["seconds"]: row for row in found.get(arm["key"], [])}
        steps = [f"{at[s]['step_ms']:.2f}" if s in at else "-" for s in LENGTHS]
        states = [budget.size(at[s]["state_bytes"]) if s in at else "-" for s in LENGTHS]
        peak = (result["memory"].get(arm["key"]) or {}).get("peak")
        rows.append([arm["key"], *steps, *states, budget.size(peak) if peak else "-"])
    head = ["", *(f"step after {s:g} s (ms)" for s in LENGTHS)]
    head += [*(f"state after {s:g} s" for s in LENGTHS), "peak of a process"]
    return Table(LENGTH, head, rows)


def sizes(result: Result) -> Table:
    """What each arm costs: the report's budget."""
    names = [arm["key"] for arm in result["arms"]]
    rows = budget.rows([result["budget"][name] for name in names])
    several = len(result["arms"][0].get("checkpoints") or ()) > 1
    title = "Budget, of the first training" if several else "Budget"
    return Table(title, ["", *names], [[title, *row] for title, row in rows])


def failures(result: Result) -> Table:
    """How often each arm failed, and why."""
    rows = []
    for arm in result["arms"]:
        found = result["failures"][arm["key"]]
        why = ", ".join(f"{reason} ({n})" for reason, n in found["why"].items()) or "-"
        interval = f"{100 * found['low']:.1f} to {100 * found['high']:.1f} %"
        count = f"{sum(found['why'].values())} of {found['items']}"
        rows.append([arm["key"], count, interval, why])
    return Table("Failed items", ["", "failed", "95 % interval", "why"], rows)


def margins(result: Result) -> str:
    """The differences that count as none, chosen before the result was seen."""
    listed = (f"{m['title']} {wording.margin(m)}" for m in result["metrics"].values())
    return f"Margins of equivalence, chosen beforehand: {', '.join(listed)}."


def markdown(table: Table) -> str:
    """A table of Markdown, its first column to the left and all others to the right."""
    cut = [[str(cell).replace("|", "\\|") for cell in row] for row in (table.head, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in cut]
    rule = f"|{'|'.join(['---', *(['--:'] * (len(table.head) - 1))])}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def arm_at(result: Result, levels: Mapping[str, str]) -> str:
    """The arm in one cell."""
    return next(arm["key"] for arm in result["arms"] if arm["levels"] == dict(levels))


def levels_of(result: Result, factors: Sequence[str]) -> list[dict[str, str]]:
    """Every combination of the levels of some factors."""
    rows: list[dict[str, str]] = [{}]
    for factor in factors:
        rows = [{**row, factor: level} for row in rows for level in result["factors"][factor]]
    return rows


def _cell(result: Result, levels: Mapping[str, str], key: str, metric: Mapping[str, Any]) -> str:
    found = result["values"][arm_at(result, levels)].get(key)
    if not found:
        return "-"
    shown = wording.cell(found["value"], metric)
    if found["low"] is None:
        return shown
    low, high = (wording.cell(found[end], metric) for end in ("low", "high"))
    return f"{shown} ({low} to {high})"


def _find(
    result: Result, key: str, kind: str, within: Mapping[str, str]
) -> Mapping[str, Any] | None:
    first = next(iter(result["factors"]))
    for effect in result["effects"]:
        same = effect["metric"] == key and effect["kind"] == kind
        if same and first in effect["changed"] and effect["within"] == dict(within):
            return effect
    return None


def _said(effect: Mapping[str, Any], metric: Mapping[str, Any]) -> list[str]:
    verdict = f"{effect['verdict']}{wording.settle(effect, metric)}"
    p = f"{effect['p']:.3f}"
    return [wording.change(effect, metric), wording.interval(effect, metric), p, verdict]


def _each(result: Result, arm: str, key: str) -> str:
    metric = result["metrics"][key]
    found = result["checkpoints"][arm].get(key) or []
    return " / ".join(wording.cell(value, metric) for value in found) or "-"
