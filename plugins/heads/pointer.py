"""A head around another one: what a backbone points at becomes more likely.

A backbone that points leaves, behind the D numbers of every vector, k ids of the first codebook and
k weights w of at most 1 in all. With p the softmax of the other head's logits::

    probabilities:   p'_x = (1 - sum w) p_x + sum of w at x
    logits:          l'_x = l_x + sum of w at x
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from wishbone.core.config.schema import nested, parse_nested
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.head import Head
from wishbone.core.contract.part import OneOf

LEAST = 1e-30
"""Weight that counts as none, so that its logarithm is a number."""
MOST = 1 - 1e-6
"""Share of the pointer that leaves something to the other head."""


@dataclass
class PointerHeadConfig:
    """The head inside, and what the weights are added to."""

    base: dict[str, Any] = nested("head")
    """The head that knows the codes: its key as ``name``, and its fields."""
    into: Annotated[str, OneOf("probabilities", "logits")] = "probabilities"
    """Where weights are added; "logits" is the reference code's, which moves no logit by more
    than 1."""


class PointerHead(Head):
    """All of it is the head inside; it has no parameter of its own.

    A vector without a pointer gives the logits of the head inside.
    """

    Config = PointerHeadConfig
    points = True

    def __init__(
        self, config: PointerHeadConfig, *, width: int, codes: CodeSpace, extra: int
    ) -> None:
        super().__init__()
        slot = parse_nested(config.base, "head")
        if slot.weights:
            raise ConfigError(
                "The head inside a 'pointer' has no weights of its own.",
                slot.place,
                "Name the folder of the whole model's weights instead.",
            )
        self.config, self.width = config, width
        self.base: Head = slot.build({"width": width, "codes": codes, "extra": extra})

    @classmethod
    def small_config(cls) -> PointerHeadConfig:
        """A plain table inside."""
        return PointerHeadConfig(base={"name": "linear"})

    @property
    def independent(self) -> bool:
        """That of the head inside."""
        return self.base.independent

    def embed(self, ids: Tensor) -> Tensor:
        """ids [..., Q] -> [..., D], by the head inside."""
        return self.base.embed(ids)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D + 2 k], or [..., D] -> logits [..., Q, X]."""
        vector, pointer = self._split(hidden)
        return self._first(self.base(vector), pointer)

    def predict(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """hidden [N, D + 2 k], answers [N, Q] -> logits [N, Q, X]."""
        vector, pointer = self._split(hidden)
        return self._first(self.base.predict(vector, answers), pointer)

    def sample(self, hidden: Tensor, pick: Callable[[Tensor, int], int]) -> tuple[int, ...]:
        """hidden [D + 2 k] -> one id for each codebook; the pointer is for the first."""
        vector, pointer = self._split(hidden)

        def pick_pointed(logits: Tensor, book: int) -> int:
            return pick(logits if book or pointer is None else self._moved(logits, *pointer), book)

        return self.base.sample(vector, pick_pointed)

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """That of the head inside."""
        return self.base.accelerate(engine, weights)

    def _split(self, hidden: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """hidden [..., D + 2 k] -> vector [..., D], and ids and weights [..., k]."""
        if hidden.shape[-1] == self.width:
            return hidden, None
        vector, ids, weights = hidden.tensor_split((self.width, -self._count(hidden)), -1)
        vector = vector.to(next(self.base.parameters()).dtype)  # [..., D]
        return vector, (ids.long(), weights)

    def _count(self, hidden: Tensor) -> int:
        return (hidden.shape[-1] - self.width) // 2

    def _first(self, logits: Tensor, pointer: tuple[Tensor, Tensor] | None) -> Tensor:
        """logits [..., Q, X] with those of the first codebook moved."""
        if pointer is None:
            return logits
        first = self._moved(logits[..., 0, :], *pointer)[..., None, :]  # [..., 1, X]
        return torch.cat([first, logits[..., 1:, :].to(first.dtype)], -2)

    def _moved(self, logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """logits [..., X], ids and weights [..., k] -> logits [..., X]."""
        logits = logits.to(weights.dtype)  # [..., X]
        if self.config.into == "logits":
            return logits.scatter_add(-1, ids, weights)
        share = weights.sum(-1, keepdim=True).clamp(max=MOST)  # [..., 1]
        logits = logits.log_softmax(-1) + torch.log1p(-share)  # [..., X]
        # an id that is pointed at twice is moved once, by both weights
        alike = ids[..., :, None] == ids[..., None, :]  # [..., k, k]
        once = ~alike.tril(-1).any(-1)  # [..., k]
        mass = (alike * weights[..., None, :]).sum(-1)  # [..., k]
        before = logits.gather(-1, ids)  # [..., k]
        moved = torch.logaddexp(before, mass.clamp_min(LEAST).log())  # [..., k]
        return logits.scatter_add(-1, ids, (moved - before) * once)
