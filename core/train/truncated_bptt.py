"""Truncated back-propagation through time: long sequences, read a segment at a step.

A row of the batch reads one sequence, a segment a step, until its end, then the next sequence
(``SegmentStreams``). The state after a segment enters the next one as it is, in float32 and cut off
from the graph (``SegmentTrainer``). So a model is trained with states as they are after any number
of positions, and memory stays that of one segment.
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
from wishbone.core.train.distributed.sharded_files import read_rows
from wishbone.core.train.loop import StepData, Trainer
from wishbone.core.train.objectives import Codes

STATE = "state."
"""Prefix of the names of a state's parts in a checkpoint."""
FEATURE = "A training on segments (segment_positions)"
CAPABILITIES = ("streaming", "varlen")
"""Without them a cut, or the padding of a segment, would change what the backbone computes."""


@dataclass(frozen=True)
class Segment:
    """Positions that one row reads in one step."""

    utterance: int
    """Row of the corpus."""
    epoch: int
    first: bool
    """True where the sequence begins with this segment."""
    positions: Positions


class SegmentStreams:
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
        self._sequences: list[tuple[int, Positions] | None] = [None] * rows
        self._next = rows
        self._at = [(number, 0) for number in range(rows)]
        """For each row: number of its sequence, first position of its next segment."""

    def take(self) -> list[Segment]:
        """The next segment of every row."""
        return [self._take(row) for row in range(self.rows)]

    def progress(self) -> dict[str, Any]:
        """Progress of the rows, in numbers that JSON can hold."""
        return {"next": self._next, "rows": [list(at) for at in self._at]}

    def restore(self, progress: dict[str, Any]) -> None:
        """Go back to ``progress()`` of earlier. Raises ``CheckpointError`` for other rows."""
        if len(progress["rows"]) != self.rows:
            raise CheckpointError(
                f"The checkpoint was written with {len(progress['rows'])} rows in a step, and this"
                f" run has {self.rows}.",
                "state.json of the checkpoint",
                "Keep batch_positions times accumulate times processes, or begin a new run.",
            )
        self._next = int(progress["next"])
        self._at = [(int(number), int(begin)) for number, begin in progress["rows"]]
        self._sequences = [None] * self.rows

    def _take(self, row: int) -> Segment:
        number, begin = self._at[row]
        epoch, place = divmod(number, len(self.corpus))
        utterance = int(self._order(epoch)[place])
        sequence = self._sequence(row, number, utterance, epoch)
        span = slice(begin, begin + self.segment)
        positions = Positions(sequence.table[span], sequence.ids[span], sequence.targets[span])
        if span.stop < len(sequence.table):
            self._at[row] = (number, span.stop)
        else:
            self._at[row] = (self._next, 0)
            self._next += 1
        return Segment(utterance, epoch, begin == 0, positions)

    def _sequence(self, row: int, number: int, utterance: int, epoch: int) -> Positions:
        """The whole sequence of a row, laid out once and held until the row has read it."""
        current = self._sequences[row]
        if current is None or current[0] != number:
            current = (number, lay_out(self.corpus, self.layout, utterance, self.seed, epoch))
            self._sequences[row] = current
        return current[1]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # rows may be in two epochs at once, hardly in three
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            random = np.random.default_rng((self.seed, epoch))
            self._orders[epoch] = random.permutation(len(self.corpus))
        return self._orders[epoch]


@dataclass(frozen=True)
class SegmentBatch(Batch):
    """The segments of some rows, padded to the longest."""

    number: int
    """Number of the batch in the step; its rows carry their states on to the same of the next."""
    first: Tensor  # [B]
    """True where a row's sequence begins."""

    @classmethod
    def of(cls, segments: Sequence[Segment], number: int) -> SegmentBatch:
        """Pad on the right."""
        batch = collate([s.positions for s in segments], [s.utterance for s in segments])
        first = torch.tensor([segment.first for segment in segments])  # [B]
        return cls(batch.table, batch.ids, batch.targets, batch.mask, batch.rows, number, first)

    def to(self, device: torch.device) -> SegmentBatch:
        """The same on another device."""
        batch, first = super().to(device), self.first.to(device, non_blocking=True)
        parts = (batch.table, batch.ids, batch.targets, batch.mask)
        return SegmentBatch(*parts, self.rows, self.number, first)


class ContinuedCodes(Codes):
    """Cross entropy of sequences that began earlier."""

    def forward(
        self,
        table: Tensor,
        ids: Tensor,
        targets: Tensor,
        mask: Tensor,
        first: Tensor | None = None,
        carried: State | None = None,
    ) -> tuple[Tensor, Tensor, State]:
        """As ``SpeechLM.continued``; rows begin where ``first`` [B], all of them without state."""
        first = torch.ones_like(mask[:, 0]) if first is None else first  # [B]
        state = state_before(self.model.backbone, first, carried)
        return self.model.continued(table, ids, targets, mask, state)


class SegmentTrainer(Trainer):
    """The training loop with segments in the place of utterances: a step reads one of every row.

    Which rows a process has follows from the number of batches in a step, so that any number of
    processes goes on from a checkpoint of any other, as long as the step stays as large.
    """

    def _build_objective(self) -> ContinuedCodes:
        require_carried_state(self.model.backbone)
        return ContinuedCodes(Codes.Config(), self.model, self.system)

    def _build_plan(self) -> SegmentStreams:
        recipe = self.recipe
        rows = self.batches_per_step * (recipe.batch_positions // recipe.segment_positions)
        self.carried: dict[int, State] = {}
        """State after the last segment, by number of the batch in the step."""
        size = recipe.segment_positions
        return SegmentStreams(self.training, self.layout, rows, size, recipe.seed)

    def steps_per_epoch(self) -> int:
        """Estimate the number: only reading shows how long a sequence is laid out."""
        segments = -(-self.training.positions() // self.recipe.segment_positions)
        return -(-int(segments.sum()) // self.plan.rows)

    def _draw(self) -> StepData:
        segments = self.plan.take()
        count = self.batches_per_step
        batches: list[Batch | None] = [
            SegmentBatch.of(segments[number::count], number) for number in self._local_batches()
        ]
        return StepData(
            epoch=max(segment.epoch for segment in segments),
            rows=[segment.utterance for segment in segments],
            positions=sum(len(segment.positions.table) for segment in segments),
            batches=batches,
        )

    def _loss(self, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        arguments = batch.table, batch.ids, batch.targets, batch.mask, batch.first
        with self._autocast():
            loss, count, after = self.objective(*arguments, self.carried.get(batch.number))
        if self.recipe.carry:
            self.carried[batch.number] = detached(after)
        return loss, count

    def _progress(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        states = [(self._rows_of(number), state) for number, state in self.carried.items()]
        return {"streams": self.plan.progress()}, stack_rows(states) if states else {}

    def _resume(self) -> dict[str, Any]:
        state = super()._resume()
        if not self.step:
            return state
        folder = self.run.newest()
        if "streams" not in state:
            raise CheckpointError(
                "The checkpoint was written by a training on whole sequences.",
                str(folder),
                "Give its weights to a new run: 'weights: RUN/export' and another 'out'.",
            )
        self.plan.restore(state["streams"])
        if self.recipe.carry:
            files = read_rows(folder, "carried")
            for number in self._local_batches():
                rows = self._rows_of(number)
                self.carried[number] = select_rows(files, rows, self.group.device)
        return state

    def _local_batches(self) -> range:
        """Numbers of this process's batches in a step."""
        return range(self.group.rank, self.batches_per_step, self.group.size)

    def _rows_of(self, number: int) -> range:
        """Rows of the step that the batch of this number reads."""
        return range(number, self.plan.rows, self.batches_per_step)


def state_before(backbone: Backbone, first: Tensor, carried: State | None) -> State:
    """The state before a segment: the backbone's first where ``first`` [B], else ``carried``.

    A row that begins keeps its gradient, for a backbone that learns its first state. A state that
    grows (a cache of keys and values) is padded with zeros to the longest row, as in
    ``wishbone.core.model.state_batch``; its memory is that of the whole sequence.
    """
    initial = backbone.init_state(len(first), device=first.device)
    if carried is None:
        return initial
    return {name: _choose(first, part, carried[name]) for name, part in initial.items()}


def detached(after: State) -> State:
    """The state after a segment, cut off from the graph that made it, float32 at least."""
    return {name: _widened(part.detach()) for name, part in after.items()}


def require_carried_state(backbone: Backbone) -> None:
    """Raise ``CapabilityError`` for a backbone whose state cannot be carried for many rows."""
    require_caps(backbone, FEATURE, *CAPABILITIES)
    name = type(backbone).__name__
    if not rows_may_differ(backbone):
        raise CapabilityError(
            f"The state of {name} grows and does not say how long each row of it is.",
            "segment_positions of the recipe",
            "Give the state a part [B] of whole numbers, or train on whole sequences.",
        )


def stack_rows(states: Sequence[tuple[Sequence[int], State]]) -> State:
    """States of some rows each as one state of all, and ``row`` [B], the numbers of the rows."""
    numbers = torch.tensor([row for rows, _ in states for row in rows])  # [B]
    parts = join([state for _, state in states])
    return {"row": numbers} | {f"{STATE}{name}": part for name, part in parts.items()}


def select_rows(files: Sequence[State], rows: Sequence[int], device: torch.device) -> State:
    """The states of ``rows`` in this order, from files of ``stack_rows`` by several processes."""
    states = [
        {name.removeprefix(STATE): part for name, part in file.items() if name != "row"}
        for file in files
    ]
    numbers = [number for file in files for number in file["row"].tolist()]
    place = {number: index for index, number in enumerate(numbers)}
    indices = torch.tensor([place[row] for row in rows])  # [rows]
    return {name: part.to(device) for name, part in pick(join(states), indices).items()}


def _choose(first: Tensor, initial: Tensor, carried: Tensor) -> Tensor:
    """Rows [B, ...] of ``initial`` where ``first`` [B], else of ``carried``, maybe a longer one."""
    initial = padded(initial, carried.shape[1:])  # [B, ...]
    return torch.where(first.view(-1, *[1] * (carried.ndim - 1)), initial, carried)  # [B, ...]


def _widened(part: Tensor) -> Tensor:
    """Numbers of fewer bits than float32 as float32, which changes none of them."""
    return part.float() if part.is_floating_point() and part.itemsize < 4 else part
