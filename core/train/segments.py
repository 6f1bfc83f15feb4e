"""Long sequences in pieces: who reads what in which step, and the state between two pieces.

Truncated back-propagation through time: a row of the batch reads one sequence, a segment a step,
until its end, then the next sequence. The state after a segment enters the next one as it is, in
float32 and cut off from the graph. So a model is trained on what it knows after any number of
positions, and memory stays that of one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wishbone.core.contract.backbone import Backbone, State, require_caps
from wishbone.core.contract.errors import CapabilityError, CheckpointError
from wishbone.core.contract.layout import Layout, Positions
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.model.state_batch import join, padded, pick, rows_may_differ
from wishbone.core.train.batches import Batch, collate, lay_out

STATE = "state."
"""Prefix of the names of a state's parts in a checkpoint."""


@dataclass(frozen=True)
class Segment:
    """Positions that one row reads in one step."""

    utterance: int
    """Row of the corpus."""
    epoch: int
    fresh: bool
    """True where the sequence begins here."""
    positions: Positions


class Streams:
    """The rows of a step's batch, those of all processes, each with a sequence of its own.

    Sequences are numbered over all epochs, each epoch in an order of its own, and a row that has
    come to an end takes the next number. How far the rows are is all that a checkpoint needs.
    """

    def __init__(
        self, corpus: TokenCorpus, layout: Layout, rows: int, segment: int, seed: int
    ) -> None:
        self.corpus, self.layout = corpus, layout
        self.rows, self.segment, self.seed = rows, segment, seed
        self._orders: dict[int, np.ndarray] = {}
        self._laid: list[tuple[int, Positions] | None] = [None] * rows
        self._next = rows
        self._at = [(number, 0) for number in range(rows)]
        """For each row: number of its sequence, first position of its next segment."""

    def take(self) -> list[Segment]:
        """The next segment of every row."""
        return [self._take(row) for row in range(self.rows)]

    def where(self) -> dict[str, Any]:
        """Progress of the rows, in numbers that JSON can hold."""
        return {"next": self._next, "rows": [list(at) for at in self._at]}

    def go_to(self, where: dict[str, Any]) -> None:
        """Put back what ``where`` said. Raises ``CheckpointError`` for another number of rows."""
        if len(where["rows"]) != self.rows:
            raise CheckpointError(
                f"The checkpoint was written with {len(where['rows'])} rows in a step, and this"
                f" run has {self.rows}.",
                "state.json of the checkpoint",
                "Keep batch_positions times accumulate times processes, or begin a new run.",
            )
        self._next = int(where["next"])
        self._at = [(int(number), int(begin)) for number, begin in where["rows"]]
        self._laid = [None] * self.rows

    def _take(self, row: int) -> Segment:
        number, begin = self._at[row]
        epoch, place = divmod(number, len(self.corpus))
        utterance = int(self._order(epoch)[place])
        laid = self._lay_out(row, number, utterance, epoch)
        here = slice(begin, begin + self.segment)
        piece = Positions(laid.table[here], laid.ids[here], laid.targets[here])
        if here.stop < len(laid.table):
            self._at[row] = (number, here.stop)
        else:
            self._at[row] = (self._next, 0)
            self._next += 1
        return Segment(utterance, epoch, begin == 0, piece)

    def _lay_out(self, row: int, number: int, utterance: int, epoch: int) -> Positions:
        """The whole sequence of a row, kept until the row has read it."""
        held = self._laid[row]
        if held is None or held[0] != number:
            held = (number, lay_out(self.corpus, self.layout, utterance, self.seed, epoch))
            self._laid[row] = held
        return held[1]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # rows may be in two epochs at once, hardly in three
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            random = np.random.default_rng((self.seed, epoch))
            self._orders[epoch] = random.permutation(len(self.corpus))
        return self._orders[epoch]


@dataclass(frozen=True)
class Pieces(Batch):
    """The segments of some rows, padded to the longest."""

    part: int
    """Number of the batch in the step; its rows carry their states on to the same of the next."""
    fresh: Tensor  # [B]

    @classmethod
    def of(cls, segments: Sequence[Segment], part: int) -> Pieces:
        """Pad on the right."""
        laid = collate([one.positions for one in segments], [one.utterance for one in segments])
        fresh = torch.tensor([one.fresh for one in segments])
        return cls(laid.table, laid.ids, laid.targets, laid.mask, laid.rows, part, fresh)

    def to(self, device: torch.device) -> Pieces:
        """The same on another device."""
        laid, fresh = super().to(device), self.fresh.to(device, non_blocking=True)
        parts = (laid.table, laid.ids, laid.targets, laid.mask)
        return Pieces(*parts, self.rows, self.part, fresh)


def before(backbone: Backbone, fresh: Tensor, held: State | None) -> State:
    """The state before a segment: the backbone's own where ``fresh`` [B], else the ``held`` one.

    What begins keeps its gradient, for a backbone that learns its first state. A state that grows
    (a cache of keys and values) is padded with zeros to the longest row, as in
    ``wishbone.core.model.state_batch``; its memory is that of the whole sequence.
    """
    begin = backbone.init_state(len(fresh), device=fresh.device)
    if held is None:
        return begin
    return {name: _choose(fresh, part, held[name]) for name, part in begin.items()}


def detached(after: State) -> State:
    """The state after a segment, cut off from the graph that made it, float32 at least."""
    return {name: _widened(part.detach()) for name, part in after.items()}


CUT = "A training on segments (segment_positions)"
CUT_NEEDS = ("streaming", "varlen")
"""Without them a cut, or the padding of a segment, would change what the backbone computes."""


def check_carries(backbone: Backbone) -> None:
    """Raise ``CapabilityError`` for a backbone whose state cannot be carried for many rows."""
    require_caps(backbone, CUT, *CUT_NEEDS)
    name = type(backbone).__name__
    if not rows_may_differ(backbone):
        raise CapabilityError(
            f"The state of {name} grows and does not say how long each row of it is.",
            "segment_positions of the recipe",
            "Give the state a part [B] of whole numbers, or train on whole sequences.",
        )


def stack(states: Sequence[tuple[Sequence[int], State]]) -> State:
    """States of some rows each as one state of all, and ``row`` [B], which rows they are."""
    numbers = torch.tensor([row for rows, _ in states for row in rows])  # [B]
    parts = join([state for _, state in states])
    return {"row": numbers} | {f"{STATE}{name}": part for name, part in parts.items()}


def unstack(written: Sequence[State], rows: Sequence[int], device: torch.device) -> State:
    """Of what ``stack`` made once or several times, the states of ``rows`` in this order."""
    parts = [
        (one["row"].tolist(), {n.removeprefix(STATE): t for n, t in one.items() if n != "row"})
        for one in written
    ]
    place = {row: index for index, row in enumerate(row for numbers, _ in parts for row in numbers)}
    state = pick(join([part for _, part in parts]), torch.tensor([place[row] for row in rows]))
    return {name: part.to(device) for name, part in state.items()}


def _choose(fresh: Tensor, begin: Tensor, held: Tensor) -> Tensor:
    """Rows [B, ...] of ``begin`` where ``fresh`` [B], else of ``held``, which may be longer."""
    begin = padded(begin, held.shape[1:])  # [B, ...]
    return torch.where(fresh.view(-1, *[1] * (held.ndim - 1)), begin, held)


def _widened(part: Tensor) -> Tensor:
    """Numbers of fewer bits than float32 as float32, which changes none of them."""
    return part.float() if part.is_floating_point() and part.itemsize < 4 else part
