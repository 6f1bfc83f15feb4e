"""The contract of an objective: the loss of a training, a part that can be exchanged.

A recipe names one: ``objective: {name: KEY, ...fields}``. The loop sees a sum and a number to
divide it by, so every objective resumes, accumulates and runs in many processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import IGNORE
from wishbone.core.contract.part import Part


class LanguageModel(Protocol):
    """The part of the trained ``SpeechLM`` that an objective may use."""

    backbone: Backbone
    head: Head

    def __call__(
        self, table: Tensor, ids: Tensor, *, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """table [B, T], ids [B, T, Q], mask [B, T] -> hidden [B, T, D] and the state."""
        ...

    def loss(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """table [B, T], ids [B, T, Q], targets [B, T, Q], mask [B, T] -> two numbers.

        They are the sum of the cross entropy in nats, and the count of its targets.
        """
        ...


class Objective(Part, nn.Module):
    """A sum over the positions of a batch, around the model that is trained.

    ``model`` is its only submodule: a model to compare with is kept outside of the parameters. The
    constructor may freeze parameters (``requires_grad``) and give weights their first values; a
    checkpoint is read after it.
    """

    def __init__(self, config: Any, model: LanguageModel, system: Mapping[str, Any]) -> None:
        """``system`` is the resolved configuration that ``model`` was built from."""
        super().__init__()
        self.config = config
        self.model = model

    def forward(
        self, table: Tensor, ids: Tensor, targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """table [B, T], ids [B, T, Q], targets [B, T, Q], mask [B, T] -> sum and count.

        The sum is minimised; it is divided by the count, that of ``count``. Without any target
        both are 0, and the gradient of the sum still reaches every trained parameter.
        """
        raise NotImplementedError

    def count(self, targets: Tensor, mask: Tensor) -> Tensor:
        """targets [B, T, Q], mask [B, T] -> the count of ``forward``: real targets by default."""
        return ((targets != IGNORE) & mask[..., None]).sum()  # []

    def shardable(self) -> Sequence[nn.Module]:
        """Return the modules to gather one at a time, as ``Backbone.shardable`` does."""
        return self.model.backbone.shardable()

    def about(self) -> dict[str, Any]:
        """Return facts to record with the trained weights, beside the objective's fields."""
        return {}
