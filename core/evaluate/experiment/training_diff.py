"""The making of each arm's weights: by content where a path is only a name, and budget apart.

Two trainings on the same files are the same wherever those files lay. How long and at which rates
an arm was trained is its budget: it is stated first in a report, and never a reason to refuse one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import weights_folder
from wishbone.core.evaluate.experiment.arms import Arm, Checkpoint, flattened
from wishbone.core.train.recipe import RUNNING, Recipe, as_saved

BUDGET = (
    "training.before",
    "training.steps",
    "training.seeds.train",
    *(
        f"training.recipe.{key}"
        for key in (
            "steps", "max_minutes", "batch_positions", "accumulate", "learning_rate",
            "warmup_steps", "schedule", "final_rate", "decay_share", "ema", "seed", "precision",
            "optimizer", "muon_rate",
        )
    ),
)  # fmt: skip
"""Keys that say for how long, by which optimiser, at which rates, from which seed and how rounded,
and not what was learned."""


@dataclass(frozen=True)
class Stages:
    """All trainings that made a set of weights, the first one first; empty when unknown."""

    steps: tuple[int, ...] = ()
    positions: tuple[int | None, ...] = ()
    """Of each stage, padding included."""


def provenance(arm: Arm | Checkpoint) -> dict[str, Any]:
    """The ``provenance.json`` beside a checkpoint's weights, an arm's first; empty without one."""
    if not arm.config.get("weights"):
        return {}
    path = Path(weights_folder(arm.config["weights"])) / "provenance.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def stages(record: Mapping[str, Any]) -> Stages:
    """Steps and positions of every training in a ``provenance.json``, earlier ones included."""
    notes = record.get("notes") or {}
    if not isinstance(notes.get("steps"), int):
        return Stages()
    every = [*(notes.get("before") or []), notes]
    steps = [stage.get("steps") for stage in every]
    counts = [_positions(stage) for stage in every]
    return Stages(tuple(int(count or 0) for count in steps), tuple(counts))


def training(arm: Arm) -> dict[str, Any]:
    """The making of an arm's weights, as far as it must be equal; empty when unknown.

    Where an arm has several checkpoints, what differs between them is a list: that of their seeds
    is to be the same in every arm too.
    """
    trainings = [_training(provenance(checkpoint)) for checkpoint in arm.checkpoints]
    if not all(trainings):
        return {}
    keys = dict.fromkeys(key for one in trainings for key in one)
    rows = {key: [one.get(key) for one in trainings] for key in keys}
    return {k: row[0] if all(v == row[0] for v in row) else row for k, row in rows.items()}


def sentence(arms: Sequence[Arm], keys: Sequence[str]) -> str:
    """One sentence about unequal budgets, of the keys that differ; "" where none of ``keys`` is.

    It names every arm's steps and stages, then what else differs.
    """
    unequal = [key for key in keys if key in BUDGET]
    if not unequal:
        return ""
    listed = "; ".join(f"{arm.key}: {_told(stages(provenance(arm)))}" for arm in arms)
    counted = ("training.before", "training.steps", "training.recipe.steps")
    names = [key.removeprefix("training.recipe.") for key in unequal if key not in counted]
    others = ["seed" if name == "training.seeds.train" else name for name in names]
    also = f"; the last stages differ in {', '.join(dict.fromkeys(others))}" if others else ""
    return f"The arms were not trained alike ({listed}){also}."


def _training(record: Mapping[str, Any]) -> dict[str, Any]:
    """Flat keys of one ``provenance.json``."""
    if not record:
        return {}
    notes = record.get("notes") or {}
    recipe = notes.get("recipe") or {}
    if recipe:
        # a field that an older training lacks had its default
        known = as_saved(Recipe())
        recipe = {k: v for k, v in (known | recipe).items() if k not in RUNNING and k != "system"}
    facts = {"data": record.get("data"), "seeds": record.get("seeds"), "steps": notes.get("steps")}
    if record.get("data"):
        # the hash says what was read; the paths say only where it lay
        recipe.pop("data", None)
        if "utterances" in notes:
            # of the same files as many are left only where the same were kept apart
            facts["utterances"] = notes["utterances"]
            recipe.pop("held_out", None)
    if notes.get("before"):
        # weights to begin with have a folder for each arm; how those were trained is its budget
        facts["before"] = notes["before"]
        recipe.pop("weights", None)
    return flattened({"training": {**facts, "recipe": recipe}})


def _positions(stage: Mapping[str, Any]) -> int | None:
    recipe = stage.get("recipe") or {}
    steps, batch = stage.get("steps"), recipe.get("batch_positions")
    if not isinstance(steps, int) or not isinstance(batch, int):
        return None
    return steps * batch * int(recipe.get("accumulate") or 1)


def _told(every: Stages) -> str:
    if not every.steps:
        return "unknown"
    total = f"{sum(every.steps):,} steps"
    if len(every.steps) > 1:
        total += f" in {len(every.steps)} stages ({' + '.join(f'{n:,}' for n in every.steps)})"
    if all(every.positions):
        total += f", {sum(n or 0 for n in every.positions) / 1e6:.1f} M positions"
    return total
