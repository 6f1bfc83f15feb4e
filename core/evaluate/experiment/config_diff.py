"""Differences between the arms, and the refusal of those that should not be there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.errors import ConfigError
from wishbone.core.evaluate.experiment.arms import Arm, Checkpoint, flattened
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result import Difference
from wishbone.core.train.recipe import RUNNING

TRAINED = ("tokenizer", "speech_tokenizer", "layout", "backbone", "head")
"""Parts that a language model's weights are made for: where one is varied, weights differ too."""


def differences(plan: Plan) -> list[Difference]:
    """Every key of the systems, and of how their weights were trained, that differs."""
    configs = {arm.key: flattened(arm.config) for arm in plan.arms}
    follows = any(_under(key, TRAINED) for key in plan.vary)
    allowed = (*plan.vary, "about", *(["weights"] if follows else []))
    result = _differences(configs, lambda key: _under(key, allowed))
    trained = {arm.key: training(arm) for arm in plan.arms}
    if all(trained.values()):
        result += _differences(trained, lambda key: _under("weights", plan.vary))
    elif any(trained.values()):
        records = {key: "recorded" if value else "unknown" for key, value in trained.items()}
        result.append(Difference("training", records, False))
    return result


def refuse_untrained(plan: Plan, allow: bool) -> None:
    """Raise ``ConfigError`` for arms without weights, unless allowed: they say nothing yet."""
    configs = {arm.key: arm.config for arm in plan.arms}
    missing = [
        key
        for key, config in configs.items()
        if not config.get("weights") and not (config.get("backbone") or {}).get("weights")
    ]
    if missing and not allow:
        raise ConfigError(
            f"No weights are named for {' and '.join(missing)}, which is therefore untrained.",
            "the systems of the arms",
            "Name trained weights ('weights: FOLDER'), or say --allow to try the machinery.",
        )


def refuse_unfinished(plan: Plan) -> None:
    """Raise ``ConfigError`` while trainings that the arms need are not done."""
    missing = [training.key for training in plan.trainings if not training.done]
    if missing:
        listed = ", ".join(missing[:6]) + (", ..." if len(missing) > 6 else "")
        raise ConfigError(
            f"{len(missing)} of {len(plan.trainings)} trainings are not done: {listed}.",
            str(plan.trainings[0].folder.parent),
            "Run the same command with --train first; it goes on where it was stopped.",
        )


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


def _training(record: Mapping[str, Any]) -> dict[str, Any]:
    """Flat keys of one ``provenance.json``."""
    if not record:
        return {}
    notes = record.get("notes") or {}
    recipe = {k: v for k, v in (notes.get("recipe") or {}).items() if k not in RUNNING}
    facts = {"data": record.get("data"), "seeds": record.get("seeds"), "steps": notes.get("steps")}
    if notes.get("before"):
        # weights to begin with have a folder for each arm; how those were trained is to be equal
        facts["before"] = notes["before"]
        recipe.pop("weights", None)
    return flattened({"training": {**facts, "recipe": recipe}})


def provenance(arm: Arm | Checkpoint) -> dict[str, Any]:
    """The ``provenance.json`` beside a checkpoint's weights, an arm's first; empty without one."""
    if not arm.config.get("weights"):
        return {}
    path = Path(weights_folder(arm.config["weights"])) / "provenance.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def refuse_confounds(differences: Sequence[Difference], allow: bool) -> list[Difference]:
    """The differences nobody asked for; raises ``ConfigError`` unless they are allowed."""
    confounds = [difference for difference in differences if not difference.meant]
    if confounds and not allow:
        listed = "; ".join(
            f"{one.key} ({', '.join(f'{k}: {_short(v)}' for k, v in one.values.items())})"
            for one in confounds[:8]
        )
        more = f"; and {len(confounds) - 8} more" if len(confounds) > 8 else ""
        raise ConfigError(
            f"The arms differ in more than what is varied: {listed}{more}.",
            "the systems of the arms",
            "Make these equal, add them to 'vary', or say --allow; the report will then say so.",
        )
    return confounds


def _differences(
    tables: Mapping[str, Mapping[str, Any]], varied: Callable[[str], bool]
) -> list[Difference]:
    keys = sorted({key for table in tables.values() for key in table})
    rows = [(key, {arm: table.get(key) for arm, table in tables.items()}) for key in keys]
    return [
        Difference(key, values, varied(key))
        for key, values in rows
        if any(value != next(iter(values.values())) for value in values.values())
    ]


def _under(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
