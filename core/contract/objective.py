"""What a training makes small, as a part that can be exchanged; registered as kind ``objective``.

A recipe names one: ``objective: {name: KEY, ...fields}``. The loop knows nothing of it but a sum
and what to divide it by, so every objective resumes, accumulates and runs in many processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import IGNORE
from wishbone.core.contract.part import Part


class LanguageModel(Protocol):
    """What an objective may use of the model that is trained, a ``SpeechLM``."""

    backbone: Backbone
    head: Head

    def __call__(
        self, table: Tensor, ids: Tensor, *, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """table [B, T], ids [B, T, Q], mask [B, T] -> hidden [B, T, D] and the state."""

    def loss(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross entropy in nats, and the number of targets it is the sum of."""


class Objective(Part, nn.Module):
    """A sum over the positions of a batch, around the model that is trained.

    ``model`` is its only submodule: what it compares the model with is held apart from the
    parameters. The constructor may freeze parameters (``requires_grad``) and give weights their
    first values; a checkpoint is read after it.
    """

    Config: ClassVar[type]

    def __init__(self, config: Any, model: LanguageModel, system: Mapping[str, Any]) -> None:
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
