"""Two sequences of one model, advanced as two rows of one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.errors import CapabilityError
from wishbone.core.interfaces import Backbone, State, require_caps

if TYPE_CHECKING:
    from wishbone.core.model import SpeechLM

Position = tuple[int, tuple[int, ...]]


class Pair:
    """Rows of state that share every call and nothing else.

    Rows may take different positions, also none: the shorter is padded and masked, and a masked
    position changes nothing. Raises ``CapabilityError`` for a backbone that cannot do that.
    """

    def __init__(self, model: SpeechLM, states: Sequence[State]) -> None:
        check(model.backbone)
        self._model = model
        self._state = stack(states)
        self._hidden: Tensor | None = None

    @torch.inference_mode()
    def advance(self, rows: Sequence[Sequence[Position]]) -> None:
        """Put positions of a ``Feed`` through, each row its own; one each is a decoding step."""
        lengths = [len(row) for row in rows]
        if set(lengths) == {1}:
            vectors = torch.cat([self._model.embed_positions(row) for row in rows])
            self._hidden = self._model.backbone.step_(vectors, self._state)[:, 0]
            return
        given = {index: row for index, row in enumerate(rows) if row}
        vectors = _padded([self._model.embed_positions(row)[0] for row in given.values()])
        x = vectors.new_zeros(len(rows), *vectors.shape[1:])
        x[list(given)] = vectors
        steps = torch.arange(x.shape[1], device=x.device)
        mask = steps < torch.tensor(lengths, device=x.device)[:, None]
        even = len(set(lengths)) == 1
        y, self._state = self._model.backbone(x, self._state, mask=None if even else mask)
        last = torch.stack([y[index, max(n, 1) - 1] for index, n in enumerate(lengths)])
        moved = torch.tensor(lengths, device=x.device)[:, None] > 0
        before = last if self._hidden is None else self._hidden
        self._hidden = torch.where(moved, last, before)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """What each row would say next, [rows, Q, X] float32 on the CPU."""
        return self._model.head(self._hidden).to("cpu", torch.float32)


def check(backbone: Backbone) -> None:
    """Raise ``CapabilityError`` unless sequences of different lengths can share its calls."""
    require_caps(backbone, "Guidance, which pads the shorter of two sequences,", "varlen")
    counted = any(not part.is_floating_point() for part in backbone.init_state(1).values())
    if backbone.caps.constant_state or counted:
        return
    raise CapabilityError(
        f"{type(backbone).__name__} cannot hold two sequences of different lengths in one batch.",
        "caps and init_state of the backbone",
        "Leave guidance at 1, or use a backbone that honours masks and counts its positions.",
    )


def stack(states: Sequence[State]) -> State:
    """States of batch 1 as the rows of one; where a part grows, shorter ones get zeros behind."""
    return {name: torch.cat(_even([state[name] for state in states])) for name in states[0]}


def _even(parts: Sequence[Tensor]) -> list[Tensor]:
    """Parts [1, ...] with zeros behind, all of the shape of the largest."""
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    padded = []
    for part in parts:
        missing = [more - less for less, more in zip(part.shape, shape, strict=True)]
        padded.append(F.pad(part, [n for each in reversed(missing) for n in (0, each)]))
    return padded


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows [T, D] of different lengths -> [N, T, D]."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
