"""What a training makes small, as a part that can be exchanged; registered as kind ``objective``.

A recipe names one: ``objective: {name: KEY, ...fields}``. The loop knows nothing of it but a sum
and what to divide it by, so every objective resumes, accumulates and runs in many processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from wishbone.core.config import part
from wishbone.core.interfaces import IGNORE
from wishbone.core.model import SpeechLM
from wishbone.core.plugin import guarded, registry


class Objective(nn.Module):
    """A sum over the positions of a batch, around the model that is trained.

    ``model`` is its only submodule: what it compares the model with is held apart from the
    parameters. The constructor may freeze parameters (``requires_grad``) and give weights their
    first values; a checkpoint is read after it.
    """

    Config: ClassVar[type]

    def __init__(self, config: Any, model: SpeechLM, system: Mapping[str, Any]) -> None:
        """``system`` is the resolved configuration that ``model`` was built from."""
        super().__init__()
        self.config = config
        self.model = model

    def forward(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum to make small, and the number to divide it by, that of ``count``.

        Shapes as in ``SpeechLM.loss``. Without any target both are 0, and the sum still reaches
        every trained parameter.
        """
        raise NotImplementedError

    def count(self, targets: Tensor, mask: Tensor) -> Tensor:
        """What ``forward`` will divide by: targets [B, T, Q] of real positions, by default."""
        return ((targets != IGNORE) & mask[..., None]).sum()

    def shardable(self) -> Sequence[nn.Module]:
        """What is gathered one after another where processes share weights out: the layers."""
        return self.model.backbone.shardable()

    def about(self) -> dict[str, Any]:
        """What the weights it makes should remember of it, beside its fields."""
        return {}


class Codes(Objective):
    """Cross entropy of the next code: how a speech model is ordinarily trained."""

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
    _, fields = part(values, "objective")
    return {"name": values["objective"]["name"], **asdict(fields)}


def build_objective(
    section: Mapping[str, Any], model: SpeechLM, system: Mapping[str, Any]
) -> Objective:
    """The objective that ``section`` names, around ``model``; it may change its weights."""
    cls, fields = part({"objective": section}, "objective")
    with guarded(registry().entry("objective", section["name"])):
        return cls(fields, model, system)
