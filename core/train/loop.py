"""The training loop, in the order in which it runs.

``Trainer(...)`` builds model, objective, data, optimizer and average; ``train`` repeats
``_train_step`` and between two steps measures, logs and writes checkpoints. ``_train_step`` is the
whole of a step: draw batches, forward, backward, clip, optimizer, average.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wishbone.core.config.compose import Config
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import WishboneError
from wishbone.core.contract.extensions.objective import Objective
from wishbone.core.data.corpora import require_same_parts
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.system.build import build_layout, build_model
from wishbone.core.train.batches import Batch, BatchPlan, batches_by_length, collate, lay_out
from wishbone.core.train.condition_dropout import dropping
from wishbone.core.train.distributed.fsdp import (
    clip_gradients_,
    full_state_dict,
    gathered,
    shard_,
)
from wishbone.core.train.distributed.processes import ProcessGroup
from wishbone.core.train.logger import Logger
from wishbone.core.train.objectives import build_objective
from wishbone.core.train.optimizer import (
    Average,
    freeze_,
    make_optimizer,
    schedule_factor,
    set_learning_rate,
)
from wishbone.core.train.recipe import Recipe
from wishbone.core.train.run_folder import RunFolder
from wishbone.core.train.time_budget import TimeBudget


@dataclass
class Tally:
    """Losses and counts summed since the last line of the log."""

    loss: float = 0.0
    count: float = 0.0
    positions: int = 0
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The objective's mean: nats per target in ordinary training."""
        return self.loss / max(1.0, self.count)


@dataclass(frozen=True)
class StepData:
    """The utterances of one step, and the batches that this process makes of its share."""

    epoch: int
    rows: Sequence[int]
    """Utterances of the corpus, those of all processes."""
    positions: int
    """Of all processes, about, padding not counted."""
    batches: list[Batch | None]
    """Of this process; None where it has nothing to do."""


class Trainer:
    """One run in one process; under torchrun each process has its own and they keep in step."""

    def __init__(
        self,
        recipe: Recipe,
        system: Config,
        training: TokenCorpus,
        held_out: TokenCorpus,
        group: ProcessGroup,
        run: RunFolder,
    ) -> None:
        self.recipe = recipe
        self.system = system
        self.group = group
        self.run = run
        torch.manual_seed(recipe.seed)
        self.sharded = recipe.shard == "full" and group.size > 1
        self.model = build_model(system, "cpu").train()
        freeze_(self.model, recipe.freeze)
        self.objective = self._build_objective()
        if self.sharded:
            shard_(self.objective, group)
        else:
            self.model.to(group.device)
        tokenizer, self.plain_layout, self.codes = build_layout(system)
        for corpus in (training, held_out):
            require_same_parts(corpus, system, self.plain_layout.tables, self.codes)
        self.training = training
        self.lengths = training.positions()
        """[N] approximate positions of every utterance."""
        self.layout = dropping(recipe.drop, self.plain_layout, tokenizer.space, training)
        self.batches_per_step = recipe.accumulate * group.size
        """Of all processes."""
        self.plan = self._build_plan()
        self.held_out = self._held_out_batches(held_out)
        self.optimizer = make_optimizer(self.model, recipe)
        self.average = Average(self.model, recipe.ema)
        self.schedule = TimeBudget(recipe, run.folder)
        self.evaluated: dict[int, float] = {}
        """Step -> held-out loss measured in this call."""
        self.step = 0
        self.elapsed = 0.0
        """Seconds of training in all calls of this run."""
        self.positions = 0
        """Positions seen in all calls of this run, padding not counted."""
        self.tally = Tally()

    def train(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        """Go on from the newest checkpoint to the last step; true when that was reached.

        ``interrupted()`` is called after every step. Raises ``WishboneError`` when a loss is not
        finite.
        """
        self._resume()
        logger = Logger(self.recipe, self.run, self.group, self.step)
        logger.steps = None if self.schedule.open else self._last_step()
        begin, earlier = time.monotonic(), self.elapsed
        while self.step < self._last_step():
            before = time.monotonic()
            self._train_step()
            self.schedule.time(time.monotonic() - before)
            self.elapsed = earlier + time.monotonic() - begin
            self._fit_steps(logger)
            last = self.step == self._last_step()
            if self.step % self.recipe.log_every == 0 or last:
                logger.training(self.step, self.tally, self._learning_rate(), self.elapsed)
                self.tally = Tally()
            every = self.recipe.evaluate_every
            if last or (every and self.step % every == 0):
                self.evaluated[self.step] = self.evaluate()
                logger.held_out(self.step, self.evaluated[self.step])
            halt = self.group.agree(interrupted())
            if last or halt or self.group.agree(logger.checkpoint_due(self.step)):
                self.save(logger)
            if halt:
                break
        logger.close()
        return self.step >= self._last_step()

    def _last_step(self) -> int:
        """The number of steps of the whole run, as far as it is known."""
        return self.schedule.recipe_at(self.step).steps

    def _fit_steps(self, logger: Logger) -> None:
        """Fix the number of steps of a run that has so many minutes, once some were timed."""
        if not self.schedule.open or not self.group.agree(self.schedule.due(self.elapsed)):
            return
        measured = sum(batch.mask.numel() for batch in self.held_out)
        held_out_share = measured / (self.recipe.batch_positions * self.recipe.accumulate)
        fitting = self.schedule.fitting_steps(self.step, self.elapsed, held_out_share)
        fit = self.schedule.fix(self.step, self.group.broadcast(fitting), self.group.leads)
        logger.fitted(fit)

    def _train_step(self) -> None:
        """One step of the optimizer over the batches of all processes."""
        begin = time.monotonic()
        data = self._draw()
        # dropout, too, follows from the number of the step, so no generator need be saved
        stream = self.step * self.group.size + self.group.rank
        torch.manual_seed((self.recipe.seed << 32) + stream)
        # the sum of the losses is divided by the targets of all processes, counted beforehand
        targets = self._sum(
            sum(int(self.objective.count(b.targets, b.mask)) for b in data.batches if b)
        )
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)  # []
        for batch in data.batches:
            if batch:
                loss, _ = self._loss(batch.to(self.group.device))  # []
                (loss / max(1.0, targets)).backward()
                total += loss.detach().double()
        loss_sum = float(self.group.sum_(total))
        if not self.sharded:
            self.group.sum_gradients_(self.model)
        norm = clip_gradients_(self.model.parameters(), self.recipe.clip, self.group)
        if not math.isfinite(loss_sum) or not math.isfinite(norm):
            self._refuse(data, loss_sum, norm)
        set_learning_rate(
            self.optimizer, schedule_factor(self.step, self.schedule.recipe_at(self.step))
        )
        self.optimizer.step()
        if self.average.decay:
            self.average.update(self.step)
        self.step += 1
        self.positions += data.positions
        self.tally.loss += loss_sum
        self.tally.count += targets
        self.tally.positions += data.positions
        self.tally.seconds += time.monotonic() - begin
        self.tally.parts = {"epoch": data.epoch, "norm": norm}

    def _build_objective(self) -> Objective:
        """The function that is minimised, around the model."""
        return build_objective(self.recipe.objective, self.model, self.system)

    def _build_plan(self) -> Any:
        """The plan that decides which utterances go into which step."""
        budget = self.recipe.batch_positions * self.batches_per_step
        return BatchPlan(self.lengths, budget, self.recipe.seed, self.training.ids)

    def steps_per_epoch(self) -> int:
        """Number of steps in which every utterance is seen once."""
        return len(self.plan.epoch(0))

    def _draw(self) -> StepData:
        """The data of this step, laid out for this process."""
        epoch, rows = self.plan.rows(self.step)
        count = self.batches_per_step
        batches = [
            self._batch(rows[number::count], epoch, rows)
            for number in range(self.group.rank, count, self.group.size)
        ]
        return StepData(epoch, rows, int(self.lengths[rows].sum()), batches)

    def _batch(self, rows: Sequence[int], epoch: int, all_rows: Sequence[int]) -> Batch | None:
        """The batch of ``rows``; without any, None, or one that teaches nothing where it must.

        A process with nothing to do takes part all the same where weights are shared out, because
        the others wait for its share of every layer.
        """
        if not len(rows):
            idle = self._batch(all_rows[:1], epoch, all_rows) if self.sharded else None
            return idle.without_targets() if idle else None
        seed = self.recipe.seed
        return collate(
            [lay_out(self.training, self.layout, int(r), seed, epoch) for r in rows], rows
        )

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over the targets of a batch, and their number."""
        with self._autocast():
            return self.objective(batch.table, batch.ids, batch.targets, batch.mask)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.group.device.type, torch.bfloat16)

    def _learning_rate(self) -> float:
        before = self.step - 1
        return self.recipe.learning_rate * schedule_factor(before, self.schedule.recipe_at(before))

    def _sum(self, number: int) -> float:
        """The sum of a number over all processes."""
        value = torch.tensor(number, dtype=torch.float64, device=self.group.device)  # []
        return float(self.group.sum_(value))

    @torch.no_grad()
    def evaluate(self) -> float:
        """The objective of the averaged weights on held-out data; not a number without data."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.group.device)  # [2]: sum, targets
        with self.average.applied(), gathered(self.objective):
            for batch in self.held_out:
                batch = batch.to(self.group.device)
                with self._autocast():
                    arguments = batch.table, batch.ids, batch.targets, batch.mask
                    loss, count = self.objective(*arguments)[:2]  # [], []
                total += torch.stack([loss.double(), count.double()])  # [2]
        self.model.train()
        loss, count = self.group.sum_(total).tolist()
        return loss / count if count else math.nan

    def _held_out_batches(self, corpus: TokenCorpus) -> list[Batch]:
        """This process's share of the held-out batches, laid out the same way every time."""
        rows = range(min(len(corpus), self.recipe.held_out_limit))
        sequences = [lay_out(corpus, self.plain_layout, row, 0, 0) for row in rows]
        batches = batches_by_length(sequences, self.recipe.batch_positions)
        return batches[self.group.rank :: self.group.size]

    def save(self, logger: Logger | None = None) -> None:
        """Write a checkpoint and speak the samples; all processes call it."""
        state = {"step": self.step, "elapsed": self.elapsed, "tally": vars(self.tally)}
        state["positions"] = self.positions
        progress, carried = self._progress()
        state |= progress
        folder = self.run.save(self.model, self.average, self.optimizer, state, self.group, carried)
        if logger:
            logger.saved(folder)
        if logger and self.recipe.samples:
            weights = self.weights()
            if self.group.leads:
                logger.samples(folder, weights, self.system)
        self.group.barrier()

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights in the leading process; all must ask, the others get nothing."""
        with self.average.applied():
            return full_state_dict(self.model, keep=self.group.leads)

    def _progress(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """State of a checkpoint beyond weights and the step: JSON, and rows of tensors."""
        return {}, {}

    def _resume(self) -> dict[str, Any]:
        """Go back to the newest checkpoint -> its ``state.json``."""
        state = self.run.load(self.model, self.average, self.optimizer)
        self.schedule.load()
        self.step = int(state.get("step", 0))
        self.elapsed = float(state.get("elapsed", 0.0))
        self.positions = int(state.get("positions", 0))
        self.tally = Tally(**state.get("tally", {}))
        if self.group.leads:
            self.run.trim_log(self.step)
        self.group.barrier()
        return state

    def _refuse(self, data: StepData, loss: float, norm: float) -> None:
        """Stop before the weights are spoilt, and name the utterances."""
        ids = [self.training.ids[row] for row in data.rows]
        path = self.run.folder / f"not-finite-{self.step:08d}.json"
        if self.group.leads:
            entry = {"step": self.step, "epoch": data.epoch}
            entry |= {"loss": str(loss), "norm": str(norm)}
            write_text(path, json.dumps(entry | {"utterances": ids}, indent=2) + "\n")
        first = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        raise WishboneError(
            f"The loss ({loss}) or the gradient (norm {norm}) of step {self.step} is not finite.",
            f"utterances {first}; all of them in {path}",
            "Look at these utterances, or lower learning_rate; the last checkpoint is intact.",
        )
