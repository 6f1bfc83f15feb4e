"""A pointer beside the vectors of a stack, for the head: ids and weights of every position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.stack.mixer import POINTER, Call, Mixer


def points_of(halves: Sequence[Mixer]) -> int:
    """Return k of the last half that points. Raises ``CapabilityError`` where none does."""
    points = [half.points for half in halves if half.points]
    if not points:
        raise CapabilityError(
            "The head takes a pointer, and no half of the stack points at anything.",
            "the blocks of the stack",
            "Put the mixer 'sparse_pointer' into a block, or use the head that is inside.",
        )
    return points[-1]


def with_pointer(y: Tensor, call: Call, count: int) -> Tensor:
    """y [..., D] -> [..., D + 2 k], ids and weights of the last half that pointed behind it.

    They are float32 at least, which holds every id; with a ``count`` of 0 y is as it was.
    """
    if not count:
        return y
    ids, weights = call.extra[POINTER]  # [B, T, k] each; in a step T is 1
    kind = torch.promote_types(y.dtype, torch.float32)
    ids, weights = (part.to(kind).reshape(*y.shape[:-1], count) for part in (ids, weights))
    return torch.cat([y.to(kind), ids, weights], -1)
