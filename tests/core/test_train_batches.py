"""The batch plan, padding, held-out texts, the learning rate and the average of the weights."""

from random import Random

import numpy as np
import pytest
import torch
from tiny_corpus import ABOUT, rows
from torch import nn

from wishbone.core.contract.errors import DataError
from wishbone.core.contract.layout import IGNORE, Positions
from wishbone.core.train.batches import BatchPlan, collate, split_held_out, without_texts
from wishbone.core.train.optimizer import Average, schedule_factor
from wishbone.core.train.recipe import Recipe

LENGTHS = np.array([Random(i).randint(20, 300) for i in range(500)])


def test_an_epoch_sees_every_utterance_once_within_the_budget():
    plan = BatchPlan(LENGTHS, 1200, seed=3)
    for epoch in (0, 1):
        batches = plan.epoch(epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
        assert all(LENGTHS[rows].max() * len(rows) <= 1200 for rows in batches)
    padded = sum(LENGTHS[rows].max() * len(rows) for rows in plan.epoch(0))
    # batches of utterances in random order would be a third padding
    assert LENGTHS.sum() / padded > 0.9
    # and they are full
    assert len(plan.epoch(0)) < 1.3 * LENGTHS.sum() / 1200


def test_the_plan_follows_from_seed_and_step_alone():
    one, two = BatchPlan(LENGTHS, 1200, seed=3), BatchPlan(LENGTHS, 1200, seed=3)
    forward = [one.rows(step) for step in range(2 * len(one.epoch(0)))]
    assert len({epoch for epoch, _ in forward}) >= 2
    for step in reversed(range(len(forward))):
        epoch, chosen = two.rows(step)
        assert epoch == forward[step][0]
        assert chosen.tolist() == forward[step][1].tolist()
    other = BatchPlan(LENGTHS, 1200, seed=4)
    assert [r.tolist() for r in other.epoch(0)] != [r.tolist() for r in one.epoch(0)]
    assert [r.tolist() for r in one.epoch(1)] != [r.tolist() for r in one.epoch(0)]


def test_an_utterance_that_fits_no_batch_is_named():
    with pytest.raises(DataError, match="takes 300 positions"):
        BatchPlan(LENGTHS[: int(LENGTHS.argmax()) + 1].clip(max=300), 299, seed=0)


def test_padding_is_masked_and_predicts_nothing():
    def positions(length):
        column = torch.arange(1, length + 1)
        return Positions(torch.ones(length, dtype=torch.long), column[:, None], column[:, None])

    batch = collate([positions(3), positions(5)], [7, 9])
    assert batch.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert batch.targets[0, :, 0].tolist() == [1, 2, 3, IGNORE, IGNORE]
    assert batch.ids[0, 3:].eq(0).all() and batch.table[0, 3:].eq(0).all()
    assert batch.rows == (7, 9)


def test_held_out_texts_are_whole(tmp_path):
    pytest.importorskip("pyarrow", reason="pip install 'wishbone-tts[train]' for corpora")
    from wishbone.core.data.tokens import read_tokens, write_tokens

    texts = [f"text {n % 40}" for n in range(200)]
    made = [row | {"text": text} for row, text in zip(rows(200), texts, strict=True)]
    write_tokens(tmp_path / "a.parquet", made, ABOUT)
    corpus = read_tokens(tmp_path)
    inside, outside = split_held_out(corpus, 0.2)
    assert len(inside) + len(outside) == 200 and len(outside) > 0
    assert not {texts[row] for row in inside} & {texts[row] for row in outside}
    held_out = corpus.take(outside)
    assert without_texts(corpus, held_out).tolist() == inside.tolist()


def test_the_rate_rises_holds_and_falls():
    recipe = Recipe(steps=100, warmup_steps=10, schedule="trapezoid", decay_share=0.2)
    shares = [schedule_factor(step, recipe) for step in range(101)]
    assert shares[0] == pytest.approx(0.109) and shares[9] == 1.0
    assert set(shares[10:81]) == {1.0}
    assert shares[90] == pytest.approx(0.5) and shares[100] == 0.0
    recipe = Recipe(steps=100, warmup_steps=10, schedule="cosine", final_rate=0.1)
    shares = [schedule_factor(step, recipe) for step in range(101)]
    assert shares[55] == pytest.approx(0.55) and shares[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(shares[10:], shares[11:], strict=False))


def test_the_average_follows_and_leaves_the_weights_as_they_were():
    model = nn.Linear(2, 1)
    average = Average(model, 0.9)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(step=1000)
    with average.applied():
        assert torch.allclose(model.weight, start + 0.1)
    assert torch.equal(model.weight, start + 1.0)
    average.update(step=0)
    # a young average forgets faster: its decay is 1 / 10
    assert torch.allclose(average.tensors()["weight"], start + 0.1 + 0.9 * 0.9)


def test_what_is_too_long_for_a_step_is_named():
    lengths = np.array([50, 900, 60, 700])
    with pytest.raises(DataError, match="2 do not fit: b, d") as refused:
        BatchPlan(lengths, 512, 0, ["a", "b", "c", "d"])
    assert "batch_positions to 900" in refused.value.do
