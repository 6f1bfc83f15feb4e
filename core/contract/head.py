"""The contract of a head: codes to vectors, and hidden vectors to logits over codes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from wishbone.core.contract.engines import eager_only
from wishbone.core.contract.part import Part


class Head(Part, nn.Module):
    """The table of codes, read in both directions.

    Built as ``Head(config, width=D, codes=CodeSpace, extra=E)``: each codebook has
    X = codes.size + E ids, the last E being the layout's own (end, fill, ...).
    """

    points: ClassVar[bool] = False
    """``hidden`` may be [..., D + 2 k]: behind a vector, what the backbone points at
    (``Backbone.point``)."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """ids [..., Q] -> vectors [..., D], summed over codebooks."""

    @abstractmethod
    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., Q, X]."""

    def predict(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """hidden [N, D], answers [N, Q] -> logits [N, Q, X], as training compares them.

        An answer may be ``IGNORE``. A head whose codebooks depend on each other reads, for each
        codebook, the answers of those before it; by default ``forward``, which reads none.
        """
        return self(hidden)

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """Choose an engine as ``Backbone.accelerate`` does, for one position without gradient."""
        return eager_only(type(self).__name__, engine, weights)

    @property
    def independent(self) -> bool:
        """True where the logits of all codebooks come from one ``forward``, as ``sample`` here."""
        return type(self).sample is Head.sample

    def sample(self, hidden: Tensor, pick: Callable[[Tensor, int], int]) -> tuple[int, ...]:
        """hidden [D] -> one id for each codebook, chosen by ``pick(logits [X], codebook)``.

        A head whose codebooks depend on each other (a depth transformer) overrides this.
        """
        return tuple(pick(logits, q) for q, logits in enumerate(self(hidden)))
