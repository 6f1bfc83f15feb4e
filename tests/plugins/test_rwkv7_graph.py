"""RWKV-7's step in fixed memory: the numbers of the plain step, and whose memory it is."""

import pytest
import torch
from engine_threads import same_from_many_threads

from wishbone.core.contract.errors import CapabilityError, WishboneError
from wishbone.core.model.cuda_graph import Replay, bucket
from wishbone.core.model.state_batch import Pool
from wishbone.core.testing import trained_looking_
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.rwkv7.engines.cuda_graph import StaticRWKV7, attach


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    model = trained_looking_(RWKV7(RWKV7.small_config()), 0).eval()
    return model.requires_grad_(False)


def steps(step_, x, state):
    """x [T, B, D] -> y [T, B, D]."""
    return torch.stack([step_(row[:, None], state)[:, 0] for row in x])


def error(ours, peer):
    return float((ours - peer).square().mean().sqrt() / peer.square().mean().sqrt())


def replay_of(backbone, weights="float32", **options):
    return Replay(StaticRWKV7(backbone, weights, **options), record=False)


@pytest.mark.parametrize("batch", [1, 3, 6])
def test_steps_are_those_of_plain_pytorch(backbone, batch):
    x = torch.randn(40, batch, backbone.width)
    expected_state, state = backbone.init_state(batch), backbone.init_state(batch)
    expected = steps(backbone.step_, x, expected_state)
    replay = replay_of(backbone)
    assert replay.takes(x[0][:, None], state)
    assert error(steps(replay.step_, x, state), expected) < 2e-6
    for name, part in expected_state.items():
        assert error(state[name], part) < 1e-5, name


@pytest.mark.parametrize("batch", [2, 6])
def test_matrices_in_bfloat16_are_near(backbone, batch):
    x = torch.randn(30, batch, backbone.width)
    expected = steps(backbone.step_, x, backbone.init_state(batch))
    y = steps(replay_of(backbone, "bfloat16").step_, x, backbone.init_state(batch))
    assert 1e-4 < error(y, expected) < 0.03


def test_a_state_comes_from_forward_and_goes_back(backbone):
    x = torch.randn(1, 9, backbone.width)
    expected, _ = backbone(x)
    replay = replay_of(backbone)
    _, state = backbone(x[:, :4])
    middle = steps(replay.step_, x[:, 4:7].transpose(0, 1), state)
    end, _ = backbone(x[:, 7:], state)
    assert error(torch.cat([middle.transpose(0, 1), end], 1), expected[:, 4:]) < 2e-6


def test_two_states_take_turns_and_a_shared_one_is_refused(backbone):
    x = torch.randn(6, 2, 1, backbone.width)
    replay = replay_of(backbone)
    ours = [backbone.init_state(1) for _ in range(2)]
    peer = [backbone.init_state(1) for _ in range(2)]
    for row in x:
        for one, other, vector in zip(ours, peer, row, strict=True):
            expected = backbone.step_(vector[:, None], other)
            assert error(replay.step_(vector[:, None], one), expected) < 2e-6
    shared = dict(ours[1])
    with pytest.raises(WishboneError, match="Two dictionaries hold the same state"):
        replay.step_(x[0, :1], shared)
    copied = {name: part.clone() for name, part in ours[1].items()}
    expected = backbone.step_(x[0, :1], peer[1])
    assert error(replay.step_(x[0, :1], copied), expected) < 2e-6
    assert error(replay.step_(x[0, :1], ours[1]), expected) < 2e-6


def test_memory_stays_where_it_is(backbone):
    """Check what a graph needs: no step moves the state or the input."""
    replay, state = replay_of(backbone), backbone.init_state(3)
    x = torch.randn(4, 3, backbone.width)
    places = []
    for row in x:
        replay.step_(row[:, None], state)
        places.append([part.data_ptr() for part in state.values()])
    assert places[0] == places[1] == places[3]


def test_a_pool_steps_by_replay(backbone, monkeypatch):
    x = torch.randn(8, 3, backbone.width)
    expected = [steps(backbone.step_, x[:, n : n + 1], backbone.init_state(1)) for n in range(3)]
    monkeypatch.setattr(backbone, "_engine", replay_of(backbone))
    pool = Pool(backbone, 5)
    slots = [pool.join() for _ in range(2)]
    ys = [pool.step(slots, row[:2]) for row in x[:4]]
    slots.append(pool.join())
    late = [pool.step([slots[2]], x[t, 2:]) for t in range(4)]
    ys += [pool.step(slots[:2], row[:2]) for row in x[4:]]
    for n in range(2):
        assert error(torch.stack(ys)[:, n], expected[n][:, 0]) < 2e-6
    assert error(torch.stack(late)[:, 0], expected[2][:4, 0]) < 2e-6


def test_a_state_in_bfloat16_is_kept_in_it(backbone):
    x = torch.randn(30, 2, backbone.width)
    expected = steps(backbone.step_, x, backbone.init_state(2))
    state = {
        name: part.bfloat16() if name.endswith("wkv") else part
        for name, part in backbone.init_state(2).items()
    }
    y = steps(replay_of(backbone).step_, x, state)
    assert state["blocks.0.wkv"].dtype == torch.bfloat16
    assert 1e-5 < error(y, expected) < 0.03


@pytest.mark.parametrize("batch", [1, 3])
def test_threads_step_states_of_their_own(backbone, monkeypatch, batch):
    monkeypatch.setattr(backbone, "_engine", replay_of(backbone), raising=False)
    assert same_from_many_threads(backbone, batch)


def test_a_cpu_is_told_why_not(backbone):
    with pytest.raises(CapabilityError, match="only CUDA has graphs") as caught:
        attach(backbone)
    assert "auto" in caught.value.do
    with pytest.raises(CapabilityError):
        backbone.accelerate("graph")


def test_the_comparison_sees_weights_that_changed(backbone):
    """Negative control: an engine made before a weight changed speaks with the old ones."""
    replay = replay_of(backbone)
    x = torch.randn(3, 1, backbone.width)
    before = backbone.blocks[1].time_mix.w0.clone()
    try:
        backbone.blocks[1].time_mix.w0.add_(0.5)
        expected = steps(backbone.step_, x, backbone.init_state(1))
        assert error(steps(replay.step_, x, backbone.init_state(1)), expected) > 1e-5
    finally:
        backbone.blocks[1].time_mix.w0.copy_(before)


def test_buckets():
    assert [bucket(n) for n in (1, 2, 3, 8, 9, 256)] == [1, 2, 4, 8, 16, 256]
