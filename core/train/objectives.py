"""The ordinary objective, and building the one that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.extensions.objective import Objective
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.registry.loader import guarded, registry


class Codes(Objective):
    """Cross entropy of the next code, the ordinary objective of a speech model."""

    @dataclass
    class Config:
        """Has no fields."""

    def forward(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Arguments and result of ``SpeechLM.loss``."""
        return self.model.loss(table, ids, targets, mask)


def resolve_objective(values: Mapping[str, Any]) -> dict[str, Any]:
    """``objective:`` of a recipe with all of its fields. Raises ``ConfigError``, ``UnknownName``.

    ``values`` is the recipe, so that an error can say where the field stands.
    """
    slot = parse_slot(values, "objective")
    return {"name": slot.name, **asdict(slot.config)}


def build_objective(
    section: Mapping[str, Any], model: SpeechLM, system: Mapping[str, Any]
) -> Objective:
    """The objective that ``section`` names, around ``model``; it may change its weights."""
    slot = parse_slot({"objective": section}, "objective")
    with guarded(registry().entry("objective", slot.name)):
        return slot.cls(slot.config, model, system)
