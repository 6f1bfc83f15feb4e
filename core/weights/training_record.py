"""Capabilities that weights acquired in training, as recorded in the file beside them.

``wishbone train`` writes them to ``provenance.json``: whether any utterance had an instruction, and
which conditions were left out now and then. The training of the weights it began with counts, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.errors import CapabilityError


@dataclass(frozen=True)
class TrainingRecord:
    """Capabilities of weights; None where nothing is recorded, as in weights of other projects."""

    instruct: bool | None = None
    """True where an instruction stood before any utterance."""
    dropped: tuple[str, ...] | None = None
    """Conditions that were left out now and then: names of ``guidance.CONDITIONS``."""

    def extended(self, later: TrainingRecord) -> TrainingRecord:
        """Join the record of a ``later`` training, which began with these weights."""
        recorded = [names for names in (self.dropped, later.dropped) if names is not None]
        dropped = tuple(dict.fromkeys(name for names in recorded for name in names))
        # a capability of the first weights is not lost; one that was not recorded stays unknown
        instruct = True if later.instruct else self.instruct
        return TrainingRecord(instruct, dropped if recorded else None)


def learned(config: Mapping[str, Any]) -> TrainingRecord:
    """Read the record of a system's weights; it is empty where there are none.

    A provenance from before this was recorded is judged by its recipe: no condition was left out
    then, and weights that began untrained were trained without instructions.
    """
    folder = config.get("weights")
    if not folder:
        return TrainingRecord()
    try:
        path = weights_folder(str(folder)) / "provenance.json"
        notes = json.loads(path.read_text(encoding="utf-8")).get("notes") or {}
    except (OSError, ValueError, AttributeError):
        return TrainingRecord()
    values = notes.get("learned")
    if isinstance(values, Mapping):
        dropped = values.get("dropped")
        return TrainingRecord(values.get("instruct"), None if dropped is None else tuple(dropped))
    recipe = notes.get("recipe")
    if not isinstance(recipe, Mapping):
        return TrainingRecord()
    return TrainingRecord(None if recipe.get("weights") else False, ())


def provenance_entry(
    before: Mapping[str, Any], instruct: bool, dropped: tuple[str, ...]
) -> dict[str, Any]:
    """Make the entry of ``provenance.json`` for weights that began as those of ``before``."""
    parts = (before.get(slot) or {} for slot in ("backbone", "head"))
    untrained = not before.get("weights") and not any(part.get("weights") for part in parts)
    earlier = TrainingRecord(False, ()) if untrained else learned(before)
    return asdict(earlier.extended(TrainingRecord(instruct, dropped)))


def check_instruct(config: Mapping[str, Any]) -> None:
    """Raise ``CapabilityError`` where an instruction would mean nothing to the model."""
    if learned(config).instruct is False:
        raise CapabilityError(
            "The model never heard an instruction in its training, so it would follow none.",
            "the instruction, and provenance.json beside the system's weights",
            "Leave the instruction out, or train with token data that has a column 'instruct'.",
        )
