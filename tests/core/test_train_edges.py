"""Parts of a training by themselves: time, schedules, optimisers, plans and what a run prints."""

import json
import math
from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from wishbone.core.config.compose import Config
from wishbone.core.config.schema import structured
from wishbone.core.contract.errors import CheckpointError, ConfigError, DataError
from wishbone.core.contract.layout import IGNORE, Positions
from wishbone.core.train import optimizer as optimizers
from wishbone.core.train.batches import Batch, BatchPlan, batches_by_length, collate
from wishbone.core.train.condition_dropout import Drop
from wishbone.core.train.distributed.processes import ProcessGroup, join_processes
from wishbone.core.train.loop import StepData, Tally
from wishbone.core.train.optimizer import (
    Average,
    Together,
    freeze_,
    load_optimizer,
    optimizer_tensors,
    schedule_factor,
    set_learning_rate,
)
from wishbone.core.train.recipe import Recipe
from wishbone.core.train.run_folder import RunFolder
from wishbone.core.train.time_budget import Fit, TimeBudget, warmup_warning

ALONE = ProcessGroup(0, 1, torch.device("cpu"))


def timed(folder, *seconds, **fields):
    budget = TimeBudget(Recipe(**{"max_minutes": 10, "steps": 1000, **fields}), folder)
    for each in seconds:
        budget.time(each)
    return budget


@pytest.mark.parametrize(
    ("count", "elapsed", "due"),
    [(0, 599.0, False), (1, 59.9, False), (1, 60.0, True), (11, 59.9, False), (12, 0.0, True)],
)
def test_steps_are_fixed_after_twelve_or_a_tenth_of_the_time(tmp_path, count, elapsed, due):
    assert timed(tmp_path, *[1.0] * count).due(elapsed) is due


def test_a_run_without_a_time_is_never_fitted(tmp_path):
    budget = timed(tmp_path, *[1.0] * 20, max_minutes=0.0)
    assert not budget.open and not budget.due(1e9) and budget.recipe_at(5) is budget.recipe
    assert timed(tmp_path).open
    fixed = timed(tmp_path, 1.0)
    fixed.fix(0, 10, write=False)
    assert not fixed.open and not fixed.due(1e9) and not fixed.path.exists()


def test_the_first_two_steps_of_a_call_are_left_out_where_there_are_others(tmp_path):
    few = timed(tmp_path, 50.0, 10.0, evaluate_every=0)
    # 582 seconds less 60 that are gone, at 30 seconds each
    assert few.fitting_steps(2, 60.0, 0.0) == 2 + 17
    more = timed(tmp_path, 50.0, 10.0, 2.0, 4.0, evaluate_every=0)
    assert more.fitting_steps(4, 66.0, 0.0) == 4 + 172
    # measuring takes a third of training: once at the end, however rarely it is done
    assert more.fitting_steps(4, 66.0, 30.0) == 4 + int((582 - 66 - 30) / 3)


def test_a_fit_has_at_most_the_steps_of_the_recipe_and_at_least_those_that_are_done(tmp_path):
    assert timed(tmp_path, 0.0, steps=50).fitting_steps(1, 0.0, 0.0) == 50
    assert timed(tmp_path, 1.0).fitting_steps(7, 1e6, 0.0) == 7
    # a quarter of a second each
    assert timed(tmp_path, 0.25, steps=9999).fitting_steps(1, 0.0, 0.0) == 1 + 4 * 582


@pytest.mark.parametrize(
    ("steps", "warmup"), [(2000, 100), (1000, 100), (990, 99), (19, 1), (9, 1)]
)
def test_a_fitted_run_warms_up_over_its_tenth_part_at_most(tmp_path, steps, warmup):
    fit = timed(tmp_path).fix(3, steps, write=True)
    assert fit == Fit(10, 3, steps, warmup)
    text = (tmp_path / "fitted.json").read_text()
    assert json.loads(text)["warmup_steps"] == warmup and text.endswith("}\n")
    with pytest.raises(FrozenInstanceError):
        fit.steps = 1


@pytest.mark.parametrize("text", ["{", "[]", '{"minutes": 10}', "3"])
def test_a_fit_that_cannot_be_read_or_is_of_another_time_is_made_again(tmp_path, text):
    budget = timed(tmp_path)
    budget.load()
    assert budget.fit is None
    (tmp_path / "fitted.json").write_text(text)
    budget.load()
    assert budget.fit is None
    budget.fix(1, 20, write=True)
    again, other = timed(tmp_path), timed(tmp_path, max_minutes=11)
    again.load()
    other.load()
    assert again.fit == budget.fit and other.fit is None


@pytest.mark.parametrize(("warmup", "warns"), [(9, False), (10, True), (11, True)])
def test_a_warm_up_as_long_as_the_run_is_told(warmup, warns):
    told = warmup_warning(Recipe(steps=10, warmup_steps=warmup))
    assert bool(told) is warns
    assert not warns or f"of {warmup} steps is no shorter than the run of 10" in told


@pytest.mark.parametrize(
    ("fields", "step", "share"),
    [
        ({"warmup_steps": 4}, 0, 0.01 + 0.99 / 4), ({"warmup_steps": 4}, 3, 1.0),
        ({"warmup_steps": 4}, 4, 1.0), ({"warmup_steps": 0}, 0, 1.0),
        ({"warmup_steps": 4, "final_rate": 0.2}, 12, 0.6),
        ({"warmup_steps": 4, "final_rate": 0.2}, 20, 0.2), ({"warmup_steps": 4}, 99, 0.0),
        ({"warmup_steps": 20}, 20, 1.0),
        ({"warmup_steps": 4}, 8, 0.5 * (1 + math.cos(math.pi / 4))),
        ({"schedule": "trapezoid", "warmup_steps": 2, "decay_share": 0.5}, 10, 1.0),
        ({"schedule": "trapezoid", "warmup_steps": 2, "decay_share": 0.5}, 15, 0.5),
        ({"schedule": "trapezoid", "warmup_steps": 2, "decay_share": 0.5}, 25, 0.0),
        ({"schedule": "trapezoid", "warmup_steps": 2, "decay_share": 0.0}, 19, 1.0),
        ({"schedule": "trapezoid", "warmup_steps": 2, "decay_share": 0.0, "final_rate": 0.3}, 20,
         0.3),
        ({"schedule": "trapezoid", "warmup_steps": 2, "decay_share": 0.5, "final_rate": 0.5}, 15,
         0.75),
    ],
)  # fmt: skip
def test_the_rate_of_a_step(fields, step, share):
    assert schedule_factor(step, Recipe(steps=20, **fields)) == pytest.approx(share)


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


def test_what_is_frozen_is_named_by_its_part_or_itself():
    model = small()
    freeze_(model, ["0", "1.bias"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["1.weight"]
    assert optimizers.count_trained(model) == 6
    assert Average(model, 0.9).names == ["1.weight"]
    with pytest.raises(ConfigError, match="names '2'") as caught:
        freeze_(small(), ["2"])
    assert "(0, 1)" in caught.value.do
    with pytest.raises(ConfigError, match="Everything is frozen"):
        freeze_(small(), ["0", "1"])
    # no part of a name is one
    with pytest.raises(ConfigError):
        freeze_(small(), ["1.b"])
    freeze_(small(), [])


def test_an_average_of_nothing_is_the_weights():
    model = nn.Linear(1, 1)
    average = Average(model, 0.0)
    with torch.no_grad():
        model.weight.fill_(3.0)
    assert float(average.tensors()["weight"]) == 3.0
    with average.applied():
        assert float(model.weight.detach()) == 3.0
        with torch.no_grad():
            model.weight.fill_(4.0)
    assert float(model.weight.detach()) == 4.0


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (8, 0.5), (80, 0.9), (79, 80 / 89)])
def test_a_young_average_forgets_faster(step, decay):
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.9)
    average.load({"weight": torch.zeros(1, 1)})
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update(step)
    assert float(average.tensors()["weight"]) == pytest.approx(1 - decay)
    with pytest.raises(ZeroDivisionError), average.applied():
        raise ZeroDivisionError
    assert float(model.weight.detach()) == 1.0


def test_two_optimisers_are_one():
    model = small()
    first = torch.optim.AdamW([*model[0].parameters()], lr=0.1)
    second = torch.optim.SGD([*model[1].parameters()], lr=0.2, momentum=0.5)
    both = Together(first, second)
    assert [group["lr"] for group in both.param_groups] == [0.1, 0.2]
    for group in both.param_groups:
        group["highest"] = group["lr"]
    set_learning_rate(both, 0.5)
    assert [group["lr"] for group in both.param_groups] == [0.05, 0.1]
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(1, 2)).sum().backward()
    both.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    memory = optimizer_tensors(both, model)
    assert {"exp_avg/0.weight", "exp_avg_sq/0.bias", "step/0.weight"} <= memory.keys()
    assert "momentum_buffer/1.weight" in memory and len(memory) == 8
    both.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    both.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in model.parameters())
    other = small()
    again = Together(torch.optim.AdamW([*other[0].parameters()], lr=0.1))
    load_optimizer(again, other, memory)
    assert torch.equal(again.state[other[1].weight]["momentum_buffer"],
                       memory["momentum_buffer/1.weight"])  # fmt: skip
    with pytest.raises(CheckpointError, match="remembers '2.weight'"):
        load_optimizer(again, other, {"exp_avg/2.weight": torch.ones(1)})


def sequence(length, books=1):
    column = torch.arange(1, length + 1)
    ids = column[:, None].expand(-1, books)
    return Positions(torch.ones(length, dtype=torch.long), ids, ids)


def test_batches_of_measured_data_are_as_full_as_the_budget_allows():
    batches = batches_by_length([sequence(n) for n in (5, 2, 4, 2, 3)], 6)
    assert [batch.rows for batch in batches] == [(1, 3), (4,), (2,), (0,)]
    assert [batch.rows for batch in batches_by_length([sequence(3)] * 4, 6)] == [(0, 1), (2, 3)]
    # one that is larger than the budget has a batch of its own
    assert [batch.rows for batch in batches_by_length([sequence(9), sequence(1)], 6)] == [
        (1,),
        (0,),
    ]
    assert batches_by_length([], 6) == []


def test_a_batch_that_teaches_nothing_still_has_its_inputs():
    batch = collate([sequence(2, 3), sequence(4, 3)], np.array([5, 6]))
    assert batch.ids.shape == (2, 4, 3) and batch.rows == (5, 6)
    silent = batch.without_targets()
    assert silent.targets.eq(IGNORE).all() and torch.equal(silent.ids, batch.ids)
    assert torch.equal(batch.to(torch.device("cpu")).mask, batch.mask)
    for frozen, name in ((batch, "rows"), (StepData(0, [], 0, []), "epoch"), (ALONE, "rank")):
        with pytest.raises(FrozenInstanceError):
            setattr(frozen, name, None)
    assert isinstance(silent, Batch)


def test_an_utterance_as_long_as_the_budget_fits():
    plan = BatchPlan(np.array([5, 5]), 5, seed=0)
    assert [len(rows) for rows in plan.epoch(0)] == [1, 1]
    names = [f"u{n}" for n in range(12)]
    with pytest.raises(DataError) as caught:
        BatchPlan(np.array([6] * 10 + [5, 7]), 5, 0, names)
    assert caught.value.what == (
        "The longest of 12 utterances takes 7 positions, a step has 5; 11 do not fit: "
        + ", ".join(names[:8]) + "."
    )  # fmt: skip
    with pytest.raises(DataError, match="of 0 utterances takes 0 positions"):
        BatchPlan(np.array([], dtype=int), 5, 0)


def test_utterances_of_fifty_batches_are_sorted_together():
    lengths = np.arange(1, 401)
    sizes = [len(rows) * lengths[rows].max() for rows in BatchPlan(lengths, 400, 0).epoch(0)]
    assert max(sizes) <= 400 and lengths.sum() / sum(sizes) > 0.95
    # a hundred utterances are a pool here: of two pools each is sorted by itself
    plan = BatchPlan(np.full(200, 10), 20, 0)
    plan.lengths = np.arange(200) % 10 + 1
    assert len(plan.epoch(0)) >= 50 and plan.rows(0)[0] == 0
    assert plan.rows(len(plan.epoch(0)))[0] == 1


def test_what_is_left_out_is_named_by_its_conditions():
    assert Drop().conditions() == ()
    assert Drop(prompt=0.1, prompt_text=0.2, text=1).conditions() == (
        "text", "prompt_text", "prompt_audio",
    )  # fmt: skip
    always = SimpleNamespace(random=lambda: 0.5)
    assert Drop(text=0.5, speaker=0.51, instruct=1.0).draw(always) == ("speaker", "instruct")
    asked = iter([0.9, 0.1, 0.9, 0.9, 0.9, 0.1])
    dice = SimpleNamespace(random=lambda: next(asked))
    assert Drop(prompt=0.5, instruct=0.5, text=0.5).draw(dice) == (
        "prompt_text", "prompt_audio", "instruct",
    )  # fmt: skip


def test_a_tally_of_nothing_has_no_loss():
    assert Tally().mean == 0.0 and Tally(loss=3.0, count=0.5).mean == 3.0
    assert Tally(loss=3.0, count=2.0).mean == 1.5


def test_one_process_sends_nothing_and_leads(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with join_processes("cpu") as group:
        assert group == ALONE and group.leads
        assert group.agree(True) is True and group.agree(False) is False
        assert group.broadcast(7) == 7
        value = torch.ones(1)
        assert group.sum_(value) is value and value.item() == 1
        model = nn.Linear(1, 1)
        group.sum_gradients_(model)
        assert model.weight.grad is None
    assert not replace(ALONE, rank=1).leads


def test_lines_of_steps_that_are_trained_again_leave_the_log(tmp_path):
    run = RunFolder(tmp_path)
    run.trim_log(3)
    for line in ('{"step": 2}', '{"note": 1}', "3", "{", '{"step": 3}', '{"step": 4}'):
        with run.log_file.open("a") as file:
            file.write(line + "\n")
    run.trim_log(3)
    assert run.log_file.read_text().splitlines() == ['{"step": 2}', '{"note": 1}', '{"step": 3}']
    run.log({"step": 4})
    assert run.log_file.read_text().endswith('{"step": 3}\n{"step": 4}\n')


def test_a_state_that_cannot_be_read_names_its_checkpoint(tmp_path):
    run = RunFolder(tmp_path)
    assert run.newest() is None and run.load(None, None, None) == {}
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    newest = tmp_path / "checkpoints" / "step-00000002"
    assert run.newest() == newest
    for text in (None, "{"):
        if text:
            (newest / "state.json").write_text(text)
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            run.load(None, None, None)
        assert caught.value.where == str(newest)


RANGES = [
    ("steps", [1, 10**9], [0, 10**9 + 1]), ("batch_positions", [1, 2**31 - 1], [0, 2**31]),
    ("weight_decay", [0, 10], [-0.1, 10.1]), ("epsilon", [0, 1], [-1e-9, 1.1]),
    ("log_every", [1, 10**12], [0]), ("keep", [1, 10**6], [0, 10**6 + 1]),
    ("accumulate", [1], [0]), ("max_minutes", [0], [-1]), ("beta1", [0, 0.999], [1.0, -0.1]),
    ("ema", [0], [1]), ("final_rate", [0, 1], [1.1]), ("muon_rate", [0.1], [0]),
    ("shard", ["full"], ["half"]), ("schedule", ["cosine", "trapezoid"], ["square"]),
    ("optimizer", ["muon"], ["sgd"]), ("precision", ["auto", "fp32"], ["fp16"]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "right", "wrong"), RANGES)
def test_fields_of_a_recipe_have_ranges(field, right, wrong):
    for value in right:
        values = {field: value}
        assert getattr(structured(Recipe, values, "recipe", Config(values)), field) == value
    for value in wrong:
        with pytest.raises(ConfigError, match=field):
            structured(Recipe, {field: value}, "recipe", Config({field: value}))


def test_a_pool_is_fifty_batches_of_the_mean_length():
    lengths = np.random.default_rng(1).integers(9, 11, 400)
    size = 50 * 20 // int(lengths.mean())
    order = np.random.default_rng((5, 0)).permutation(400).tolist()
    pool_of = {row: place // size for place, row in enumerate(order)}
    batches = BatchPlan(lengths, 20, seed=5).epoch(0)
    assert size == 111 and all(len({pool_of[row] for row in rows}) == 1 for rows in batches)
    # and they are not in the order in which they were cut
    pools = [pool_of[int(rows[0])] for rows in batches]
    assert pools != sorted(pools)
    # utterances as long as the budget have a step each
    assert len(BatchPlan(np.array([1000, 1000]), 1000, 0).epoch(3)) == 2


@pytest.mark.parametrize(
    ("epochs", "step", "epoch"), [(3, 0, 0), (3, 3, 0), (3, 4, 1), (3, 7, 1), (3, 8, 2)]
)
def test_a_step_belongs_to_its_epoch(epochs, step, epoch):
    plan = BatchPlan(np.full(8, 10), 20, 0)
    assert plan.rows(step)[0] == epoch
    assert plan.rows(step)[1].tolist() == plan.epoch(epoch)[step % 4].tolist()
    assert len(plan._epochs) == 1  # of one epoch at a time
    # backwards, too
    assert plan.rows(0)[0] == 0
