"""Methods of the training loop by themselves, on stand-ins: what is refused, summed and told."""

import json
import math
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from wishbone.core.contract.errors import WishboneError
from wishbone.core.train import loop
from wishbone.core.train.distributed.processes import ProcessGroup
from wishbone.core.train.loop import StepData, Tally, Trainer
from wishbone.core.train.recipe import Recipe
from wishbone.core.train.run_folder import RunFolder
from wishbone.core.train.time_budget import TimeBudget

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(("count", "more"), [(1, ""), (5, ""), (6, " and 1 more")])
@pytest.mark.parametrize("leads", [True, False])
def test_utterances_of_a_loss_that_is_none_are_named(tmp_path, count, more, leads):
    ids = [f"u{n}" for n in range(9)]
    trainer = SimpleNamespace(
        training=SimpleNamespace(ids=ids), run=SimpleNamespace(folder=tmp_path), step=7,
        group=SimpleNamespace(leads=leads),
    )  # fmt: skip
    data = StepData(3, list(range(count)), 1, [])
    with pytest.raises(WishboneError) as caught:
        Trainer._refuse(trainer, data, math.nan, 2.0)
    file = tmp_path / "not-finite-00000007.json"
    first = ", ".join(ids[: min(count, 5)])
    assert caught.value.where == f"utterances {first}{more}; all of them in {file}"
    assert "The loss (nan) or the gradient (norm 2.0) of step 7" in caught.value.what
    assert file.exists() is leads
    if leads:
        entry = {"step": 7, "epoch": 3, "loss": "nan", "norm": "2.0", "utterances": ids[:count]}
        assert json.loads(file.read_text()) == entry
        assert file.read_text().startswith('{\n  "step"')


def drawing(rank, size, accumulate, sharded=False):
    """A trainer that draws, of a plan of seven utterances a step."""
    trainer = SimpleNamespace(
        batches_per_step=accumulate * size, group=ProcessGroup(rank, size, torch.device("cpu")),
        plan=SimpleNamespace(rows=lambda step: (4, np.arange(10, 17))), step=0, sharded=sharded,
        lengths=np.arange(100), made=[],
    )  # fmt: skip
    trainer._batch = lambda rows, epoch, all_rows: (list(rows), epoch, len(all_rows))
    return trainer


@pytest.mark.parametrize(
    ("rank", "size", "accumulate", "rows"),
    [
        (0, 1, 1, [[10, 11, 12, 13, 14, 15, 16]]), (0, 1, 2, [[10, 12, 14, 16], [11, 13, 15]]),
        (0, 2, 1, [[10, 12, 14, 16]]), (1, 2, 1, [[11, 13, 15]]),
        (1, 2, 2, [[11, 15], [13]]),
    ],
)  # fmt: skip
def test_each_process_takes_its_share_of_a_step(rank, size, accumulate, rows):
    data = Trainer._draw(drawing(rank, size, accumulate))
    assert [batch[0] for batch in data.batches] == rows
    assert data.epoch == 4 and data.positions == sum(range(10, 17))
    assert all(batch[1:] == (4, 7) for batch in data.batches)


def test_a_process_without_work_takes_part_where_weights_are_shared_out(monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "lay_out", lambda *given: asked.append(given) or given[2])
    silent = SimpleNamespace(without_targets=lambda: "silent")
    monkeypatch.setattr(loop, "collate", lambda laid, rows: silent)
    trainer = SimpleNamespace(sharded=False, recipe=Recipe(seed=9), training="c", layout="l")
    trainer._batch = lambda *given: Trainer._batch(trainer, *given)
    assert trainer._batch([], 2, [5, 6]) is None and asked == []
    trainer.sharded = True
    assert trainer._batch([], 2, [5, 6]) == "silent"
    assert asked == [("c", "l", 5, 9, 2)]
    assert trainer._batch([6, 5], 1, [5, 6]) is silent
    assert asked[1:] == [("c", "l", 6, 9, 1), ("c", "l", 5, 9, 1)]


@pytest.mark.parametrize(("precision", "enabled"), [("fp32", False), ("bf16", True)])
def test_autocast_follows_the_recipe(precision, enabled):
    trainer = SimpleNamespace(recipe=Recipe(precision=precision), group=ALONE)
    with Trainer._autocast(trainer):
        assert torch.is_autocast_enabled("cpu") is enabled
        assert not enabled or torch.get_autocast_dtype("cpu") == torch.bfloat16


def measuring(batches, losses):
    """A trainer that measures: losses and counts of its held-out batches are written down."""
    found = iter(losses)

    class Objective(nn.Module):
        def forward(self, *arguments):
            assert not torch.is_grad_enabled()
            loss, count = next(found)
            return torch.tensor(loss), torch.tensor(count), "more"

    @contextmanager
    def applied():
        trainer.seen.append("average")
        yield
        trainer.seen.append("trained")

    model = nn.Dropout()
    batch = SimpleNamespace(table=0, ids=0, targets=0, mask=0)
    batch.to = lambda device: batch
    trainer = SimpleNamespace(
        model=model, group=ALONE, average=SimpleNamespace(applied=applied), seen=[],
        objective=Objective(), held_out=[batch] * batches, _autocast=nullcontext,
    )  # fmt: skip
    return trainer


def test_a_held_out_loss_is_the_mean_over_all_targets_of_the_averaged_weights():
    trainer = measuring(2, [(30.0, 10.0), (2.0, 6.0)])
    trainer.model.train()
    assert Trainer.evaluate(trainer) == 2.0
    assert trainer.model.training and trainer.seen == ["average", "trained"]
    assert math.isnan(Trainer.evaluate(measuring(0, [])))


@pytest.mark.parametrize(("limit", "rank", "count"), [(500, 0, 3), (2, 0, 2), (500, 1, 2)])
def test_of_held_out_data_each_process_measures_its_share(monkeypatch, limit, rank, count):
    asked = []
    monkeypatch.setattr(loop, "lay_out", lambda *given: asked.append(given[2:]) or given[2])
    monkeypatch.setattr(loop, "batches_by_length", lambda laid, budget: [(x, budget) for x in laid])
    size = 1 if rank == 0 else 2
    trainer = SimpleNamespace(
        recipe=Recipe(held_out_limit=limit, batch_positions=77), plain_layout="l",
        group=ProcessGroup(rank, size, torch.device("cpu")),
    )  # fmt: skip
    corpus = range(3) if size == 1 else range(5)
    found = Trainer._held_out_batches(trainer, corpus)
    assert len(found) == count and {budget for _, budget in found} == {77}
    # laid out the same way every time
    assert {each[1:] for each in asked} == {(0, 0)}
    assert [row for row, _ in found] == list(range(len(corpus)))[:limit][rank::size]


def test_the_rate_that_is_told_is_that_of_the_step_before(tmp_path):
    recipe = Recipe(learning_rate=2.0, warmup_steps=4, steps=20)
    trainer = SimpleNamespace(recipe=recipe, schedule=TimeBudget(recipe, tmp_path), step=2)
    assert Trainer._learning_rate(trainer) == pytest.approx(2.0 * (0.01 + 0.99 * 2 / 4))
    assert Trainer._last_step(trainer) == 20


@pytest.mark.parametrize("due", [False, True])
def test_steps_are_fitted_once_by_the_process_that_leads(tmp_path, due):
    recipe = Recipe(max_minutes=1, batch_positions=100, accumulate=3)
    schedule, asked, told = TimeBudget(recipe, tmp_path), [], []
    schedule.due = lambda elapsed: due
    schedule.fitting_steps = lambda *given: asked.append(given) or 55
    batch = SimpleNamespace(mask=torch.ones(5, 60))
    trainer = SimpleNamespace(
        schedule=schedule, group=ALONE, held_out=[batch] * 2, recipe=recipe, step=3, elapsed=9.0
    )
    Trainer._fit_steps(trainer, SimpleNamespace(fitted=told.append))
    if not due:
        assert asked == told == [] and schedule.open
        return
    # two batches of 300 positions are twice what a step has
    assert asked == [(3, 9.0, 2.0)] and told == [schedule.fit]
    assert (schedule.fit.steps, schedule.fit.from_step, schedule.open) == (55, 3, False)
    Trainer._fit_steps(trainer, None)
    assert len(asked) == 1 and schedule.path.exists()


def test_a_run_goes_back_to_what_its_checkpoint_says(tmp_path):
    state = {"step": 5, "elapsed": 2.5, "positions": 77, "tally": {"loss": 1.0, "count": 2.0}}
    run = RunFolder(tmp_path)
    run.log({"step": 5})
    run.log({"step": 6})
    run.load = lambda *given: state
    trainer = SimpleNamespace(run=run, model=None, average=None, optimizer=None, group=ALONE,
                              schedule=SimpleNamespace(load=lambda: None))  # fmt: skip
    assert Trainer._resume(trainer) is state
    assert (trainer.step, trainer.elapsed, trainer.positions) == (5, 2.5, 77)
    assert trainer.tally == Tally(1.0, 2.0)
    assert len(run.log_file.read_text().splitlines()) == 1
    state.clear()
    Trainer._resume(trainer)
    assert (trainer.step, trainer.elapsed, trainer.positions) == (0, 0.0, 0)
    assert trainer.tally == Tally() == Tally(0.0, 0.0, 0, 0.0, {})
    assert Trainer._progress(trainer) == ({}, {})


def test_numbers_are_summed_over_processes_and_weights_asked_of_all():
    trainer = SimpleNamespace(group=ALONE)
    assert Trainer._sum(trainer, 7) == 7.0
    applied = []

    @contextmanager
    def average():
        applied.append(True)
        yield

    model = nn.Linear(1, 1)
    for rank, names in ((0, {"weight", "bias"}), (1, set())):
        trainer = SimpleNamespace(
            model=model, average=SimpleNamespace(applied=average),
            group=ProcessGroup(rank, 2, torch.device("cpu")),
        )  # fmt: skip
        assert Trainer.weights(trainer).keys() == names
    assert len(applied) == 2
