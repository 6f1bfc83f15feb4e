"""Slots of state: who joins, leaves or is copied, everyone else goes on as if alone."""

import pytest
import torch
from tiny_system import Recurrent

from wishbone.core.contract.backbone import Caps
from wishbone.core.contract.errors import CapabilityError, WishboneError
from wishbone.core.model import state_batch
from wishbone.core.model.state_batch import Pool
from wishbone.core.testing import trained_looking_
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.transformer.backbone import Transformer

KINDS = [RWKV7, Transformer]


def backbone_of(cls):
    torch.manual_seed(0)
    return trained_looking_(cls(cls.small_config()), 0).eval().requires_grad_(False)


def alone(backbone, x):
    """x [T, D] step by step with nobody there, and the state after it."""
    state = backbone.init_state(1)
    return torch.stack([backbone.step_(row.view(1, 1, -1), state)[0, 0] for row in x]), state


def close(ours, theirs):
    # a batch of several rows is multiplied in another order than a single one
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("cls", KINDS)
def test_streams_that_come_and_go_are_as_if_alone(cls):
    backbone = backbone_of(cls)
    x = torch.randn(4, 12, backbone.width)
    expected = [alone(backbone, row)[0] for row in x]
    pool, slots, seen = Pool(backbone, 3), {}, {n: [] for n in range(4)}
    comes, goes = {0: 0, 2: 1, 3: 2, 7: 3}, {7: 1, 10: 0}
    for tick in range(12):
        if tick in goes:
            pool.leave(slots.pop(goes[tick]))
        if tick in comes:
            slots[comes[tick]] = pool.join()
        here = [n for n in slots if (n + tick) % 4]
        if here:
            new = torch.stack([x[n, len(seen[n])] for n in here])
            for n, y in zip(here, pool.step([slots[n] for n in here], new), strict=True):
                seen[n].append(y)
    assert all(len(ys) > 2 for ys in seen.values()) and len({len(s) for s in seen.values()}) > 1
    for n, ys in seen.items():
        close(torch.stack(ys), expected[n][: len(ys)])


@pytest.mark.parametrize("cls", KINDS)
def test_a_state_is_put_in_read_and_forked(cls):
    backbone = backbone_of(cls)
    x, more = torch.randn(9, backbone.width), torch.randn(2, 3, backbone.width)
    pool = Pool(backbone, 4)
    _, prompt = alone(backbone, x)
    first = pool.join()
    pool.step([first], x[:1])
    second = pool.join(prompt)
    third = pool.fork(second)
    for t in range(3):
        pool.step([second, third], more[:, t])
    for slot, tail in ((second, more[0]), (third, more[1])):
        expected, after = alone(backbone, torch.cat([x, tail]))
        probe = torch.randn(1, 1, backbone.width)
        close(backbone(probe, pool.read(slot))[0], backbone(probe, after)[0])
    expected, _ = alone(backbone, x[:2])
    close(pool.step([first], x[1:2])[0], expected[1])


@pytest.mark.parametrize("cls", KINDS)
def test_many_positions_at_once_are_single_steps(cls):
    backbone = backbone_of(cls)
    x = torch.randn(2, 8, backbone.width)
    pool = Pool(backbone, 2)
    a, b = pool.join(), pool.join()
    pool.step([b], x[1, :1])
    y = pool.forward(a, x[0, :7])
    last = pool.step([a, b], torch.stack([x[0, 7], x[1, 1]]))
    close(torch.cat([y, last[:1]]), alone(backbone, x[0])[0])
    close(last[1], alone(backbone, x[1, :2])[0][1])


@pytest.mark.parametrize(("cls", "most"), [(RWKV7, 0.0), (Transformer, 2e-6)])
def test_what_company_does_to_the_numbers(cls, most):
    """With one number of slots: the same rows in another slot, beside others, or with nobody.

    Nothing to RWKV-7. Attention sums over as many slots as the longest row has, and whether rows
    are as long as each other decides by which kernel, so the last bits of a Transformer differ.
    """
    backbone = backbone_of(cls)
    x, others = torch.randn(6, backbone.width), torch.randn(6, 4, backbone.width)

    def run(company, before):
        pool = Pool(backbone, 5)
        strangers = [pool.join() for _ in range(before)]
        slot = pool.join()
        rest = [pool.join() for _ in range(company - before)]
        slots = [slot, *strangers, *rest]
        rows = [torch.cat([x[t : t + 1], others[t, :company]]) for t in range(6)]
        return torch.stack([pool.step(slots, row)[0] for row in rows])

    nobody = run(0, 0)
    assert max((run(*company) - nobody).abs().max() for company in ((4, 0), (3, 2))) <= most


def test_a_free_slot_makes_nobody_longer():
    backbone = backbone_of(Transformer)
    pool = Pool(backbone, 3)
    gone, slot = pool.join(), pool.join()
    for _ in range(30):
        pool.step([gone], torch.randn(1, backbone.width))
    pool.leave(gone)
    for _ in range(5):
        pool.step([slot], torch.randn(1, backbone.width))
    assert pool.state["length"].tolist() == [0, 5, 0]
    assert pool.state["blocks.0.key"].shape[2] < 10


def test_a_narrow_store_rounds_and_only_what_is_named():
    backbone = backbone_of(RWKV7)
    x = torch.randn(20, backbone.width)
    expected, _ = alone(backbone, x)
    pool = Pool(backbone, 2, narrow={".wkv": torch.bfloat16})
    slot = pool.join()
    y = torch.stack([pool.step([slot], row[None])[0] for row in x])
    assert pool.state["blocks.0.wkv"].dtype == torch.bfloat16
    assert pool.state["blocks.0.time_shift"].dtype == torch.float32
    assert pool.read(slot)["blocks.0.wkv"].dtype == torch.float32
    error = (y - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 1e-5 < error < 0.02


def test_what_a_pool_refuses():
    backbone = backbone_of(RWKV7)
    pool = Pool(backbone, 1)
    slot = pool.join()
    with pytest.raises(WishboneError, match="All 1 slots are taken"):
        pool.join()
    with pytest.raises(CapabilityError, match="not the state of one sequence"):
        pool.write(slot, backbone.init_state(2))
    pool.leave(slot)
    with pytest.raises(WishboneError, match="belongs to nobody"):
        pool.step([slot], torch.zeros(1, backbone.width))
    with pytest.raises(WishboneError, match="holds nothing"):
        Pool(backbone, 0)


def test_a_state_that_grows_and_does_not_count_is_refused():
    class Growing(Recurrent):
        caps = Caps()

    with pytest.raises(CapabilityError, match="does not say how much"):
        Pool(Growing(), 2)
    assert Pool(Recurrent(), 2).free == 2


def test_the_check_sees_a_pool_that_disturbs_others(monkeypatch):
    """Negative control: without copying aside, a slot that rests is changed by the step."""
    backbone = backbone_of(RWKV7)
    monkeypatch.setattr(state_batch, "write_rows", lambda state, rows, values: None)
    pool = Pool(backbone, 2)
    a, b = pool.join(), pool.join()
    x = torch.randn(3, backbone.width)
    pool.step([a, b], x[:2])
    before = pool.read(b)
    pool.step([a], x[2:])
    assert not torch.equal(before["blocks.0.wkv"], pool.read(b)["blocks.0.wkv"])
