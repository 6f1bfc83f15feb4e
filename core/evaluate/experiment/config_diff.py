"""Differences between the arms, and the refusal of those that should not be there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from wishbone.core.config.compose import dump, weights_folder
from wishbone.core.contract.errors import ConfigError
from wishbone.core.evaluate.experiment.arms import flattened
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.experiment.training_diff import BUDGET, sentence, training
from wishbone.core.evaluate.result import Difference

TRAINED = ("tokenizer", "speech_tokenizer", "layout", "backbone", "head")
"""Parts that a language model's weights are made for: where one is varied, weights differ too."""


def differences(plan: Plan) -> list[Difference]:
    """Every key of the systems, and of how their weights were trained, that differs.

    Files are compared by what they hold, wherever they lie.
    """
    inside = [arm for arm in plan.arms if not arm.is_outside]
    configs = {arm.key: flattened(arm.config) for arm in inside}
    follows = any(_under(key, TRAINED) for key in plan.vary)
    allowed = (*plan.vary, "about", *(["weights"] if follows else []))
    result = _differences(configs, lambda key: _under(key, allowed))
    result = [one for one in result if not _same_files(one)]
    result += _sources(plan)
    trained = {arm.key: training(arm) for arm in inside}
    if all(trained.values()):
        in_training = _differences(trained, lambda key: _under("weights", plan.vary))
        result += [replace(one, budget=True) if one.key in BUDGET else one for one in in_training]
    elif any(trained.values()):
        records = {key: "recorded" if value else "unknown" for key, value in trained.items()}
        result.append(Difference("training", records, False))
    return result


def _sources(plan: Plan) -> list[Difference]:
    """Where arms from outside come from, and manners of speaking: what the A/B file asks for."""
    origins = {arm.key: arm.system if arm.is_outside else "a system" for arm in plan.arms}
    outside = any(arm.is_outside for arm in plan.arms)
    rows = [Difference("source", dict(origins), True)] if outside else []
    every = {arm.key: asdict(arm.manner) for arm in plan.arms if not arm.is_outside}
    manners = _differences(every, lambda key: True)
    return rows + [replace(one, key=f"manner.{one.key}") for one in manners]


def refuse_untrained(plan: Plan, allow: bool) -> None:
    """Raise ``ConfigError`` for arms without weights, unless allowed: they say nothing yet."""
    configs = {arm.key: arm.config for arm in plan.arms if not arm.is_outside}
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


def refuse_confounds(differences: Sequence[Difference], allow: bool) -> list[Difference]:
    """The differences nobody asked for; raises ``ConfigError`` unless they are allowed.

    Those of budget are no confounds: ``unequal_training`` states them.
    """
    confounds = [one for one in differences if not one.meant and not one.budget]
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


def unequal_training(plan: Plan, differences: Sequence[Difference]) -> str:
    """One sentence about arms that were trained for longer, or at other rates; "" if none was."""
    return sentence(plan.arms, [one.key for one in differences if one.budget and not one.meant])


def described(plan: Plan) -> str:
    """The plan as YAML: prompts, seeds, what differs, and every arm's resolved configuration."""
    every = differences(plan)
    return dump(
        {
            "name": plan.name,
            "prompts": len(plan.prompts),
            "seeds": plan.seeds,
            "vary": plan.vary,
            "metrics": plan.used,
            "unequal_training": unequal_training(plan, every),
            "not_meant_to_differ": [e.key for e in every if not e.meant and not e.budget],
            "varied": {e.key: e.values for e in every if e.meant},
            "arms": {arm.key: dict(arm.config) for arm in plan.arms},
        }
    )


def _same_files(difference: Difference) -> bool:
    """True where a part's ``weights`` are other folders with the same tensors in every arm."""
    if not difference.key.endswith(".weights") or None in difference.values.values():
        return False
    contents = [_content(str(value)) for value in difference.values.values()]
    return contents[0] is not None and all(content == contents[0] for content in contents)


def _content(folder: str) -> list[str] | None:
    """SHA-256 of every file of tensors in a folder; None where there is none."""
    files = sorted(weights_folder(folder).glob("*.safetensors"))
    if not files:
        return None
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def _differences(
    tables: Mapping[str, Mapping[str, Any]], varied: Callable[[str], bool]
) -> list[Difference]:
    keys = sorted({key for table in tables.values() for key in table})
    rows = [(key, {arm: table.get(key) for arm, table in tables.items()}) for key in keys]
    return [
        Difference(key, values, varied(key))
        for key, values in rows
        if values
        if any(value != next(iter(values.values())) for value in values.values())
    ]


def _under(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
