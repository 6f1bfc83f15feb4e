"""``report.html``: one file that explains a result and lets a person hear it, without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.evaluate.again import voices_of
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.report import claims, figures, players, tables, wording
from wishbone.core.evaluate.result import Result
from wishbone.core.report import charts
from wishbone.core.report.html_page import image, write_page
from wishbone.core.report.table import Table

FILE = "report.html"


@dataclass(frozen=True)
class _Comparison:
    """One arm against the baseline."""

    arm: str
    table: Table
    forest: str
    """Address of the chart."""


def write_report(result: Result, items: Items, out: Path) -> Path:
    """Render the report of a result into ``out`` and return its path."""
    template = Path(__file__).with_name(FILE)
    return write_page(out / FILE, template, context(result, items, out))


def context(result: Result, items: Items, out: Path) -> dict[str, object]:
    """Gather everything the template prints."""
    names = [arm.key for arm in result.arms]
    cards = players.cards(result, items, out)
    trained = result.provenance.trained
    return {
        "result": result,
        "names": names,
        "trainings": len(result.arms[0].checkpoints),
        "voices": voices_of(result),
        "title": _title(names),
        "overviews": _overviews(result),
        "figures": image(figures.cells(result)) if result.factors else "",
        "trade_offs": image(drawing) if (drawing := figures.trade_offs(result)) else "",
        "headline": claims.headline(result),
        "warnings": [*claims.warnings(result), *wording.warnings(result)],
        "rules": claims.rules(result),
        "advice": claims.advice(result),
        "words": tables.words(result) if result.analysis.words else None,
        "shows": wording.shows(result),
        "cannot": wording.cannot(result),
        "comparisons": [
            _Comparison(name, tables.comparison(result, name), _image(figures.forest(result, name)))
            for name in names[1:]
        ],
        "cards": cards,
        "others": players.silent_cards(result, items, cards),
        "length": image(figures.length(result)) if result.costs.length else "",
        "memory": tables.memory(result) if result.costs.memory else None,
        "budget": tables.sizes(result),
        "failures": tables.failures(result, with_tests=True),
        "slices": tables.slices(result),
        "parity": tables.parity(result) if result.parity else None,
        "differences": tables.differences(result),
        "weights": _json(result.provenance.weights),
        "configs": {arm.key: _json(arm.config) for arm in result.arms},
        "trained": {name: _json(trained.get(name) or {}) for name in (trained or names)},
        "colours": {name: charts.colour(place) for place, name in enumerate(names)},
    }


def _image(drawing: str) -> str:
    return image(drawing) if drawing else ""


def _title(names: Sequence[str]) -> str:
    """Name the arms; of many, the baseline and the number of the others."""
    if len(names) > 4:
        return f"{names[0]} and {len(names) - 1} other arms"
    return " and ".join([", ".join(names[:-1]), names[-1]])


def _overviews(result: Result) -> list[Table]:
    """Return the tables before the single comparisons: factors or arms, and each training's."""
    factors = [tables.cells(result), tables.effects(result)] if result.factors else []
    if len(result.arms) > 2 and not result.factors:
        factors = [tables.every_arm(result)]
    several = any(len(arm.checkpoints) > 1 for arm in result.arms)
    return [*factors, tables.trainings(result)] if several else factors


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False)
