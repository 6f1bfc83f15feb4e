"""The Transformer's step in fixed memory: rows of any length, room that grows, who is too long."""

import pytest
import torch
from engine_threads import same_from_many_threads

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.model import cuda_graph as replays
from wishbone.core.model.cuda_graph import Replay
from wishbone.core.model.state_batch import Pool
from wishbone.core.testing import trained_looking_
from wishbone.kernels.attention import step
from wishbone.plugins.transformer.backbone import Transformer
from wishbone.plugins.transformer.engines.cuda_graph import StaticTransformer, attach


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    model = trained_looking_(Transformer(Transformer.small_config()), 0).eval()
    return model.requires_grad_(False)


def replay_of(backbone, weights="float32"):
    return Replay(StaticTransformer(backbone, weights), record=False)


def steps(step_, x, state):
    """x [T, B, D] -> y [T, B, D]."""
    return torch.stack([step_(row[:, None], state)[:, 0] for row in x])


def error(ours, peer):
    return float((ours - peer).square().mean().sqrt() / peer.square().mean().sqrt())


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_are_those_of_plain_pytorch(backbone, batch):
    x = torch.randn(20, batch, backbone.width)
    expected = steps(backbone.step_, x, backbone.init_state(batch))
    replay, state = replay_of(backbone), backbone.init_state(batch)
    assert replay.takes(x[0][:, None], state)
    assert error(steps(replay.step_, x, state), expected) < 2e-6
    assert state["length"].tolist() == [20] * batch


def test_rows_of_different_lengths(backbone):
    x = torch.randn(3, 9, backbone.width)
    mask = torch.arange(9) < torch.tensor([[9], [0], [4]])
    _, state = backbone(x, mask=mask)
    more = torch.randn(5, 3, backbone.width)
    expected = []
    for row, count in enumerate((9, 0, 4)):
        complete = torch.cat([x[row, :count], more[:, row]])[None]
        expected.append(backbone(complete)[0][0, count:])
    y = steps(replay_of(backbone).step_, more, state)
    assert error(y, torch.stack(expected, 1)) < 2e-6
    again, _ = backbone(more[:1].transpose(0, 1), state)
    peer = backbone(torch.cat([x[2, :4], more[:, 2], more[0, 2:]])[None])[0][0, -1]
    assert error(again[2, 0], peer) < 2e-6


def test_room_grows_and_a_step_looks_no_further_than_it_must(backbone, monkeypatch):
    monkeypatch.setattr(replays, "BLOCK", 8)
    x = torch.randn(40, 2, backbone.width)
    expected = steps(backbone.step_, x, backbone.init_state(2))
    static, looks = StaticTransformer(backbone), []
    plain = static.step
    static.step = lambda x, state, limit: looks.append(limit) or plain(x, state, limit)
    replay, state = Replay(static, record=False), backbone.init_state(2)
    rooms = []
    for row, peer in zip(x, expected, strict=True):
        assert error(replay.step_(row[:, None], state)[:, 0], peer) < 2e-6
        rooms.append(state["blocks.0.key"].shape[2])
    assert looks == [8 * (1 + n // 8) for n in range(40)]
    assert rooms == [8] * 8 + [16] * 8 + [32] * 16 + [64] * 8


def test_the_longest_row_is_read_only_when_someone_wrote(backbone, monkeypatch):
    """Reading a number from a GPU waits for it, which a step must not."""
    replay, state = replay_of(backbone), backbone.init_state(2)
    x = torch.randn(6, 2, backbone.width)
    steps(replay.step_, x[:1], state)
    reads = []
    plain = torch.Tensor.max
    monkeypatch.setattr(torch.Tensor, "max", lambda *a: reads.append(1) or plain(*a))
    steps(replay.step_, x[1:4], state)
    assert not reads
    state["length"][0] = 0
    steps(replay.step_, x[4:], state)
    assert len(reads) == 1
    with torch.inference_mode():
        state["length"][1] = 2
        steps(replay.step_, x[4:], state)
    assert len(reads) == 2


def test_a_pool_of_streams_steps_by_replay(backbone, monkeypatch):
    x = torch.randn(300, 2, backbone.width)
    expected = [steps(backbone.step_, x[:, n : n + 1], backbone.init_state(1)) for n in range(2)]
    _, prompt = backbone(x[:270, 1][None])
    monkeypatch.setattr(backbone, "_engine", replay_of(backbone), raising=False)
    pool = Pool(backbone, 3)
    slots = [pool.join()]
    first = [pool.step(slots, row[:1])[0] for row in x[:3]]
    slots.append(pool.join(prompt))
    both = [pool.step(slots, torch.stack([x[3 + t, 0], x[270 + t, 1]])) for t in range(5)]
    pool.leave(slots[1])
    last = [pool.step(slots[:1], row[:1])[0] for row in x[8:12]]
    ours = torch.stack([*first, *(y[0] for y in both), *last])
    assert error(ours, expected[0][:12, 0]) < 2e-6
    assert error(torch.stack(both)[:, 1], expected[1][270:275, 0]) < 2e-6


def test_matrices_and_cache_in_bfloat16_are_near(backbone):
    x = torch.randn(20, 2, backbone.width)
    expected = steps(backbone.step_, x, backbone.init_state(2))
    for weights, kind in (("bfloat16", None), ("float32", torch.bfloat16)):
        state = backbone.init_state(2, dtype=kind)
        y = steps(replay_of(backbone, weights).step_, x, state)
        assert 1e-4 < error(y, expected) < 0.03


@pytest.mark.parametrize("batch", [1, 3])
def test_threads_step_states_of_their_own(backbone, monkeypatch, batch):
    monkeypatch.setattr(backbone, "_engine", replay_of(backbone), raising=False)
    assert same_from_many_threads(backbone, batch)


def test_a_cpu_is_told_why_not(backbone):
    with pytest.raises(CapabilityError, match="only CUDA has graphs"):
        attach(backbone)


def test_the_comparison_sees_a_step_that_looks_beyond_a_row(backbone, monkeypatch):
    """Negative control: where a row is thought one slot longer, its output is wrong."""
    plain = step.attend

    def careless(qkv, key, value, length, *remaining):
        return plain(qkv, key, value, length + 1, *remaining)

    monkeypatch.setattr(step, "attend", careless)
    x = torch.randn(3, 2, backbone.width)
    expected = steps(backbone.step_, x, backbone.init_state(2))
    assert error(steps(replay_of(backbone).step_, x, backbone.init_state(2)), expected) > 1e-2
