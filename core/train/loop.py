"""The training loop: every step from the plan to the weights, and nothing hidden between them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wishbone.core.config.compose import Config
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import DataError, WishboneError
from wishbone.core.contract.objective import Objective
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.system.build import build_layout, build_model
from wishbone.core.train.batches import Batch, BatchPlan, collate, lay_out
from wishbone.core.train.checkpoint import Run
from wishbone.core.train.condition_dropout import dropping
from wishbone.core.train.data_shards import clip_gradients_, gathered, shard_, whole
from wishbone.core.train.freeze import freeze_
from wishbone.core.train.logger import Watch
from wishbone.core.train.objectives import build_objective
from wishbone.core.train.optimizer import Average, make_optimizer, rate, set_rate
from wishbone.core.train.processes import Processes
from wishbone.core.train.recipe import Recipe


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
        """The objective's: nats per target, of ordinary training."""
        return self.loss / max(1.0, self.count)


@dataclass(frozen=True)
class Drawn:
    """What a step reads."""

    epoch: int
    rows: Any
    """Utterances of the corpus, those of all processes."""
    positions: int
    """Of all processes, about, padding not counted."""
    batches: list[Batch | None]
    """Of this process."""


class Trainer:
    """One run in one process; under torchrun each process has its own and they keep in step."""

    def __init__(
        self,
        recipe: Recipe,
        system: Config,
        training: TokenCorpus,
        held_out: TokenCorpus,
        here: Processes,
        run: Run,
    ) -> None:
        self.recipe = recipe
        self.system = system
        self.here = here
        self.run = run
        torch.manual_seed(recipe.seed)
        self.sharded = recipe.shard == "full" and here.count > 1
        self.model = build_model(system, "cpu").train()
        freeze_(self.model, recipe.freeze)
        self.loss = self._objective()
        if self.sharded:
            shard_(self.loss, here)
        else:
            self.model.to(here.device)
        tokenizer, self.whole_layout, self.codes = build_layout(system)
        for corpus in (training, held_out):
            check_tokens(corpus, system, self.whole_layout.tables, self.codes)
        self.training = training
        self.layout = dropping(recipe.drop, self.whole_layout, tokenizer.space, training)
        self.parts = recipe.accumulate * here.count
        """Batches of one step, in all processes."""
        self.plan = self._plan()
        self.held_out = self._held_out_batches(held_out)
        self.optimizer = make_optimizer(self.model, recipe)
        self.average = Average(self.model, recipe.ema)
        self.step = 0
        self.elapsed = 0.0
        """Seconds of training in all calls of this run."""
        self.positions = 0
        """Positions seen in all calls of this run, padding not counted."""
        self.tally = Tally()

    def train(self, stop: Any = lambda: False) -> bool:
        """Go on from the newest checkpoint to the last step; true when that was reached.

        ``stop()`` is asked after every step. Raises ``WishboneError`` when a loss is not finite.
        """
        self._resume()
        watch = Watch(self.recipe, self.run, self.here, self.step)
        begin, before = time.monotonic(), self.elapsed
        while self.step < self.recipe.steps:
            self._train_step()
            self.elapsed = before + time.monotonic() - begin
            last = self.step == self.recipe.steps
            if self.step % self.recipe.log_every == 0 or last:
                watch.training(self.step, self.tally, self._rate(), self.elapsed)
                self.tally = Tally()
            every = self.recipe.evaluate_every
            if last or (every and self.step % every == 0):
                watch.held_out(self.step, self.evaluate())
            out_of_time = 0 < self.recipe.max_minutes * 60 < time.monotonic() - begin
            halt = self.here.agree(out_of_time or stop())
            if last or halt or self.here.agree(watch.checkpoint_due(self.step)):
                self.save(watch)
            if halt:
                break
        watch.close()
        return self.step >= self.recipe.steps

    @torch.no_grad()
    def evaluate(self) -> float:
        """The objective of the averaged weights on held-out data; not a number without data."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.here.device)
        with self.average.applied(), gathered(self.loss):
            for batch in self.held_out:
                batch = batch.to(self.here.device)
                with self._autocast():
                    given = batch.table, batch.ids, batch.targets, batch.mask
                    loss, count = self.loss(*given)[:2]
                total += torch.stack([loss.double(), count.double()])
        self.model.train()
        loss, count = self.here.sum_(total).tolist()
        return loss / count if count else math.nan

    def save(self, watch: Watch | None = None) -> None:
        """Write a checkpoint and speak the samples; all processes call it."""
        state = {"step": self.step, "elapsed": self.elapsed, "tally": vars(self.tally)}
        state["positions"] = self.positions
        where, carried = self._where()
        state |= where
        folder = self.run.save(self.model, self.average, self.optimizer, state, self.here, carried)
        if watch:
            watch.saved(folder)
        if watch and self.recipe.samples:
            weights = self.weights()
            if self.here.leads:
                watch.samples(folder, weights, self.system)
        self.here.wait()

    def weights(self) -> dict[str, torch.Tensor]:
        """The averaged weights in the leading process; all must ask, the others get nothing."""
        with self.average.applied():
            return whole(self.model, keep=self.here.leads)

    def _where(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What a checkpoint must hold beyond weights and the step: numbers, and rows of tensors."""
        return {}, {}

    def _resume(self) -> dict[str, Any]:
        """Go back to the newest checkpoint -> its ``state.json``."""
        state = self.run.load(self.model, self.average, self.optimizer)
        self.step = int(state.get("step", 0))
        self.elapsed = float(state.get("elapsed", 0.0))
        self.positions = int(state.get("positions", 0))
        self.tally = Tally(**state.get("tally", {}))
        if self.here.leads:
            self.run.trim_log(self.step)
        self.here.wait()
        return state

    def _train_step(self) -> None:
        begin = time.monotonic()
        drawn = self._draw()
        batches = drawn.batches
        # Dropout, too, follows from the number of the step, so no generator need be saved.
        torch.manual_seed((self.recipe.seed << 32) + self.step * self.here.count + self.here.rank)
        targets = self._sum(
            sum(int(self.loss.count(batch.targets, batch.mask)) for batch in batches if batch)
        )
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.here.device)
        for batch in batches:
            if batch:
                loss, _ = self._loss(batch.to(self.here.device))
                (loss / max(1.0, targets)).backward()
                total += loss.detach().double()
        loss_sum = float(self.here.sum_(total))
        if not self.sharded:
            self.here.sum_gradients_(self.model)
        norm = clip_gradients_(self.model.parameters(), self.recipe.clip, self.here)
        if not math.isfinite(loss_sum) or not math.isfinite(norm):
            self._refuse(drawn, loss_sum, norm)
        set_rate(self.optimizer, rate(self.step, self.recipe))
        self.optimizer.step()
        if self.average.decay:
            self.average.update(self.step)
        self.step += 1
        self.tally.loss += loss_sum
        self.tally.count += targets
        self.tally.positions += drawn.positions
        self.positions += drawn.positions
        self.tally.seconds += time.monotonic() - begin
        self.tally.parts = {"epoch": drawn.epoch, "norm": norm}

    def _objective(self) -> Objective:
        """What is made small, around the model."""
        return build_objective(self.recipe.objective, self.model, self.system)

    def _plan(self) -> Any:
        """What decides which utterances go into which step."""
        budget = self.recipe.batch_positions * self.parts
        return BatchPlan(self.training.positions(), budget, self.recipe.seed)

    def steps_an_epoch(self) -> int:
        """In how many steps every utterance is seen once."""
        return len(self.plan.epoch(0))

    def _draw(self) -> Drawn:
        """What this step reads, laid out for this process."""
        epoch, rows = self.plan.rows(self.step)
        batches = [
            self._batch(rows[part :: self.parts], epoch, rows)
            for part in range(self.here.rank, self.parts, self.here.count)
        ]
        return Drawn(epoch, rows, int(self.training.positions()[rows].sum()), batches)

    def _batch(self, rows: Any, epoch: int, all_rows: Any) -> Batch | None:
        """A process with nothing to do takes part all the same where weights are shared out."""
        if not len(rows):
            return self._batch(all_rows[:1], epoch, all_rows).silent() if self.sharded else None
        laid = [lay_out(self.training, self.layout, int(r), self.recipe.seed, epoch) for r in rows]
        return collate(laid, rows)

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum over the targets of a batch, and their number."""
        with self._autocast():
            return self.loss(batch.table, batch.ids, batch.targets, batch.mask)

    def _sum(self, number: int) -> float:
        """The sum of a number over all processes."""
        told = torch.tensor(number, dtype=torch.float64, device=self.here.device)
        return float(self.here.sum_(told))

    def _held_out_batches(self, corpus: TokenCorpus) -> list[Batch]:
        """This process's share of the held-out batches, laid out the same way every time."""
        rows = range(min(len(corpus), self.recipe.held_out_limit))
        laid = [lay_out(corpus, self.whole_layout, row, 0, 0) for row in rows]
        order = sorted(rows, key=lambda row: len(laid[row].table))
        batches: list[Batch] = []
        begin = 0
        for end in range(1, len(order) + 1):
            full = end == len(order) or (
                (end + 1 - begin) * len(laid[order[end]].table) > self.recipe.batch_positions
            )
            if full:
                batches.append(collate([laid[row] for row in order[begin:end]], order[begin:end]))
                begin = end
        return batches[self.here.rank :: self.here.count]

    def _autocast(self) -> Any:
        if self.recipe.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.here.device.type, torch.bfloat16)

    def _rate(self) -> float:
        return self.recipe.learning_rate * rate(self.step - 1, self.recipe)

    def _refuse(self, drawn: Drawn, loss: float, norm: float) -> None:
        """Stop before the weights are spoilt, and name the utterances."""
        ids = [self.training.ids[row] for row in drawn.rows]
        path = Path(self.run.folder) / f"not-finite-{self.step:08d}.json"
        if self.here.leads:
            entry = {"step": self.step, "epoch": drawn.epoch}
            entry |= {"loss": str(loss), "norm": str(norm)}
            write_text(path, json.dumps(entry | {"utterances": ids}, indent=2) + "\n")
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        raise WishboneError(
            f"The loss ({loss}) or the gradient (norm {norm}) of step {self.step} is not finite.",
            f"utterances {shown}; all of them in {path}",
            "Look at these utterances, or lower learning_rate; the last checkpoint is intact.",
        )


def check_tokens(
    corpus: TokenCorpus, system: Mapping[str, Any], tables: Any, codes: CodeSpace
) -> None:
    """Raise ``DataError`` unless the corpus was made with the system's tokenizer and codec.

    What the files do not say is not compared; the ids themselves must exist in the tables.
    """
    size = codes.size
    ours = {
        "tokenizer": system["tokenizer"]["name"],
        "codec": system.get("speech_tokenizer", {"name": "text"})["name"],
        "codebooks": codes.codebooks,
        "rate": codes.rate,
    }
    problems = [
        f"its {key} is {corpus.about[key]}, the system's {value}"
        for key, value in ours.items()
        if key in corpus.about and corpus.about[key] != value
    ]
    # what the files do not say counts as one codebook
    if "codebooks" not in corpus.about and codes.codebooks != 1:
        problems.append(f"it has one codebook, the codec {codes.codebooks}")
    if len(corpus.codes.values) and int(corpus.codes.values.max()) >= size:
        problems.append(f"its highest code is {int(corpus.codes.values.max())}, of {size}")
    rows = tables.get("text", 0)
    if rows and len(corpus.text.values) and int(corpus.text.values.max()) >= rows:
        problems.append(f"its highest text id is {int(corpus.text.values.max())}, of {rows}")
    if problems:
        raise DataError(
            f"The corpus was not made for this system: {'; '.join(problems)}.",
            str(corpus.files[0].parent if corpus.files else "the corpus"),
            "Tokenise it with this system: 'wishbone data tokenize'.",
        )
