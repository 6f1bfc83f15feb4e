"""What weights were trained to do, as far as the file beside them says.

``wishbone train`` notes it in ``provenance.json``: whether any utterance had an instruction, and
which conditions were left out now and then. Weights it began with count, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wishbone.core.config.compose import weights_folder
from wishbone.core.contract.errors import CapabilityError


@dataclass(frozen=True)
class Learned:
    """None where nobody knows, as with weights that others trained."""

    instruct: bool | None = None
    """Whether an instruction stood before any utterance."""
    dropped: tuple[str, ...] | None = None
    """Conditions that were left out now and then: names of ``guidance.CONDITIONS``."""

    def also(self, more: Learned) -> Learned:
        """What is known after a training that began with these weights."""
        known = [part for part in (self.dropped, more.dropped) if part is not None]
        dropped = tuple(dict.fromkeys(name for part in known for name in part))
        # what the first weights could do is not lost; what nobody knew of them stays unknown
        instruct = True if more.instruct else self.instruct
        return Learned(instruct, dropped if known else None)


def learned(config: Mapping[str, Any]) -> Learned:
    """What the weights of a system were trained to do; untrained ones have learned nothing known.

    A provenance of before this was noted says it by its recipe: it knew no dropping, and weights
    made from nothing had heard no instruction.
    """
    folder = config.get("weights")
    if not folder:
        return Learned()
    try:
        path = weights_folder(str(folder)) / "provenance.json"
        notes = json.loads(path.read_text(encoding="utf-8")).get("notes") or {}
    except (OSError, ValueError, AttributeError):
        return Learned()
    said = notes.get("learned")
    if isinstance(said, Mapping):
        dropped = said.get("dropped")
        return Learned(said.get("instruct"), None if dropped is None else tuple(dropped))
    recipe = notes.get("recipe")
    if not isinstance(recipe, Mapping):
        return Learned()
    return Learned(None if recipe.get("weights") else False, ())


def note(before: Mapping[str, Any], instruct: bool, dropped: tuple[str, ...]) -> dict[str, Any]:
    """For ``provenance.json``: what weights know that began as the system ``before`` says."""
    parts = (before.get(slot) or {} for slot in ("backbone", "head"))
    anew = not before.get("weights") and not any(part.get("weights") for part in parts)
    begun = Learned(False, ()) if anew else learned(before)
    return asdict(begun.also(Learned(instruct, dropped)))


def check_instruct(config: Mapping[str, Any]) -> None:
    """Raise ``CapabilityError`` where an instruction would mean nothing to the model."""
    if learned(config).instruct is False:
        raise CapabilityError(
            "The model never heard an instruction in its training, so it would follow none.",
            "the instruction, and provenance.json beside the system's weights",
            "Leave the instruction out, or train with token data that has a column 'instruct'.",
        )
