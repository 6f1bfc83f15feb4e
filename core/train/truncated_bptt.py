"""Training on sequences of any length: the loop with segments in the place of utterances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import CheckpointError
from wishbone.core.train.batches import Batch
from wishbone.core.train.loop import Drawn, Trainer
from wishbone.core.train.objectives import Codes
from wishbone.core.train.segments import (
    Pieces,
    Streams,
    before,
    check_carries,
    detached,
    stack,
    unstack,
)
from wishbone.core.train.sharded_files import read_rows


class Continued(Codes):
    """Cross entropy of sequences that began earlier."""

    def forward(
        self,
        table: Tensor,
        ids: Tensor,
        targets: Tensor,
        mask: Tensor,
        fresh: Tensor | None = None,
        held: State | None = None,
    ) -> tuple[Tensor, Tensor, State]:
        """As ``SpeechLM.continued``; sequences begin where ``fresh`` [B], all without ``held``."""
        fresh = torch.ones_like(mask[:, 0]) if fresh is None else fresh
        state = before(self.model.backbone, fresh, held)
        return self.model.continued(table, ids, targets, mask, state)


class LongTrainer(Trainer):
    """Truncated back-propagation through time: a step reads one segment of every row.

    Which rows a process has follows from the number of batches in a step, so that any number of
    processes goes on from what any other wrote, as long as the step stays as large.
    """

    def _objective(self) -> Continued:
        check_carries(self.model.backbone)
        return Continued(Codes.Config(), self.model, self.system)

    def _plan(self) -> Streams:
        recipe = self.recipe
        rows = self.parts * (recipe.batch_positions // recipe.segment_positions)
        self.carried: dict[int, State] = {}
        return Streams(self.training, self.layout, rows, recipe.segment_positions, recipe.seed)

    def steps_an_epoch(self) -> int:
        """About how many: only reading shows how long a sequence is laid out."""
        pieces = -(-self.training.positions() // self.recipe.segment_positions)
        return -(-int(pieces.sum()) // self.plan.rows)

    def _own(self) -> range:
        """Which batches of a step are this process's."""
        return range(self.here.rank, self.parts, self.here.count)

    def _draw(self) -> Drawn:
        segments = self.plan.take()
        batches: list[Batch | None] = [
            Pieces.of(segments[part :: self.parts], part) for part in self._own()
        ]
        return Drawn(
            epoch=max(one.epoch for one in segments),
            rows=[one.utterance for one in segments],
            positions=sum(len(one.positions.table) for one in segments),
            batches=batches,
        )

    def _loss(self, batch: Pieces) -> tuple[Tensor, Tensor]:
        given = batch.table, batch.ids, batch.targets, batch.mask
        with self._autocast():
            loss, count, after = self.loss(*given, batch.fresh, self.carried.get(batch.part))
        if self.recipe.carry:
            self.carried[batch.part] = detached(after)
        return loss, count

    def _where(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        held = [(self._rows(part), state) for part, state in self.carried.items()]
        return {"streams": self.plan.where()}, stack(held) if held else {}

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
        self.plan.go_to(state["streams"])
        if self.recipe.carry:
            written = read_rows(folder, "carried")
            for part in self._own():
                self.carried[part] = unstack(written, self._rows(part), self.here.device)
        return state

    def _rows(self, part: int) -> range:
        """Rows of the step that batch ``part`` reads."""
        return range(part, self.plan.rows, self.parts)
