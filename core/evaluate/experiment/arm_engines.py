"""One engine for all arms of an A/B: speeds compare backbones only where steps are made alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wishbone.core.contract.engines import parse_engine
from wishbone.core.contract.errors import CapabilityError, UsageError
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.model.speech_lm import SpeechLM


@dataclass(frozen=True)
class EngineChoice:
    """The engine that the arms run on."""

    engine: str
    weights: str
    """The names that ``SpeechLM.accelerate`` was called with in the end."""
    used: dict[str, str]
    """Arm or checkpoint -> the engine in words."""
    note: str
    """A sentence that a reader of the speeds has to know, or ""."""


def accelerate_alike(models: Mapping[str, SpeechLM], request: str) -> EngineChoice:
    """Give all models the engine ``request``; for "auto" the fastest that all of them can have.

    Raises ``CapabilityError`` where one model cannot have an engine that was asked for by name.
    """
    engine, weights = parse_engine(request)
    first = EngineChoice(engine, weights, _accelerate(models, engine, weights), "")
    if _alike(first):
        return first
    if engine != "auto":
        return EngineChoice(engine, weights, first.used, _differ(first.used))
    kinds = dict.fromkeys(name.split(",")[0].split()[0] for name in first.used.values())
    for kind in (*(kind for kind in kinds if kind != "eager"), "eager"):
        try:
            choice = EngineChoice(kind, weights, _accelerate(models, kind, weights), "")
        except CapabilityError:
            continue
        if _alike(choice):
            return EngineChoice(kind, weights, choice.used, _slower(first.used, choice.used))
    used = _accelerate(models, engine, weights)
    return EngineChoice(engine, weights, used, _differ(used))


def refuse_mixed(items: Items, used: Mapping[str, str], checkpoints: Sequence[str]) -> None:
    """Raise ``UsageError`` where recordings of this run were made on another engine.

    "auto" may be another one after a compiler came or went.
    """
    for key in checkpoints:
        spoken = [item for item in items.of(key) if item.seed is not None]
        others = {item.engine for item in spoken} - {used[key]}
        if others:
            raise UsageError(
                f"Recordings of '{key}' were made on the engine '{min(others)}', and here it would"
                f" go on with '{used[key]}'.",
                str(items.path.parent),
                "Choose another --out, or ask for the same with --engine.",
            )


def _accelerate(models: Mapping[str, SpeechLM], engine: str, weights: str) -> dict[str, str]:
    return {key: model.accelerate(engine, weights) for key, model in models.items()}


def _alike(choice: EngineChoice) -> bool:
    return len(set(choice.used.values())) == 1


def _listed(used: Mapping[str, str]) -> str:
    return "; ".join(f"{key}: {name}" for key, name in used.items())


def _differ(used: Mapping[str, str]) -> str:
    return f"The arms run on different engines ({_listed(used)}), so speeds compare those too."


def _slower(able: Mapping[str, str], used: Mapping[str, str]) -> str:
    return (
        f"Not every arm can have the same fast engine ({_listed(able)}), so all ran on"
        f" '{next(iter(used.values()))}': speeds are lower than some arms could have."
    )
