"""What rounding a state costs: the loss of decoding steps, and whose numbers are rounded."""

from random import Random

import pytest
import torch
from tiny_system import CODES, tiny_system

from wishbone.core.contract.layout import Sample
from wishbone.core.evaluate.measure.state_precision import losses, round_
from wishbone.core.train.batches import collate


@pytest.fixture(scope="module")
def taught():
    system = tiny_system()
    samples = [
        Sample((1, 2, 27, 3, 28), ((4,), (5,), (6,), (7,)), (2, 4)),
        Sample((9, 28), ((30,), (31,)), (2,)),
    ]
    laid = [system.layout.train(sample, Random(0)) for sample in samples]
    return system.model.requires_grad_(False), collate(laid, range(2))


def test_without_rounding_it_is_the_loss_of_training(taught):
    model, batch = taught
    each = model.losses(batch.table, batch.ids, batch.targets, batch.mask)
    spoken = (batch.targets >= 0) & (batch.targets < CODES.size)
    expected = (each * spoken).sum((1, 2)) / spoken.sum((1, 2))
    assert spoken.sum((1, 2)).tolist() == [4, 2]
    found = losses(model, batch, CODES.size, {"h": torch.float32})
    assert torch.allclose(torch.from_numpy(found).float(), expected)


def test_rounding_is_seen_and_more_of_it_more(taught):
    """Negative control of a small cost: a coarse type costs much."""
    model, batch = taught
    plain = losses(model, batch, CODES.size, {})
    moved = [
        abs(losses(model, batch, CODES.size, {"h": kind}) - plain).max()
        for kind in (torch.bfloat16, torch.float8_e4m3fn)
    ]
    assert 0 < moved[0] < moved[1]
    assert (losses(model, batch, CODES.size, {"other": torch.bfloat16}) == plain).all()


def test_only_what_is_named_is_rounded():
    state = {"blocks.0.wkv": torch.tensor([1 / 3]), "blocks.0.shift": torch.tensor([1 / 3])}
    round_(state, {".wkv": torch.bfloat16})
    assert state["blocks.0.wkv"].item() == torch.tensor(1 / 3).bfloat16().item()
    assert state["blocks.0.shift"].item() == torch.tensor(1 / 3).item()
