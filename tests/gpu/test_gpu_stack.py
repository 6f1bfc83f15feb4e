"""CUDA graphs of any stack of constant state: the numbers of the plain step, and times."""

import statistics

import pytest
import torch

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.model.state_batch import Pool
from wishbone.core.testing import trained_looking_
from wishbone.plugins.stack.backbone import Stack, StackConfig

MIXERS = ["gla", "retnet", "mamba2", "mlstm", "gdn", "kda", "rwkv6", "rwkv7", "mingru", "window"]


def model(mixer, width=128, layers=2):
    torch.manual_seed(0)
    stack = Stack(StackConfig(width=width, layers=layers, mixer=mixer))
    return trained_looking_(stack, 0).eval().requires_grad_(False).cuda()


def steps(stack, x, state):
    """x [T, B, D] -> y [T, B, D]."""
    return torch.stack([stack.step_(row[:, None], state)[:, 0] for row in x])


def error(ours, peer):
    return float((ours - peer).double().norm() / peer.double().norm())


@pytest.mark.parametrize("batch", [1, 3, 33])
@pytest.mark.parametrize("mixer", MIXERS)
@torch.inference_mode()
def test_a_replay_is_the_plain_step(mixer, batch):
    plain, fast = model(mixer), model(mixer)
    x = torch.randn(100, batch, 128, device="cuda")
    expected_state, state = plain.init_state(batch), fast.init_state(batch)
    expected = steps(plain, x, expected_state)
    assert fast.accelerate("graph") == "graph"
    assert error(steps(fast, x, state), expected) < 1e-4
    for name, part in expected_state.items():
        assert error(state[name].float(), part.float()) < 1e-3, name


@torch.inference_mode()
def test_a_pool_of_replayed_streams():
    plain, fast = model("gdn"), model("gdn")
    fast.accelerate("graph")
    x = torch.randn(40, 4, 128, device="cuda")
    expected = [steps(plain, x[:, n : n + 1], plain.init_state(1))[:, 0] for n in range(4)]
    pool = Pool(fast, 6)
    slots = [pool.join() for _ in range(4)]
    actual = torch.stack([pool.step(slots, row) for row in x])
    for n, y in enumerate(expected):
        assert error(actual[:, n], y) < 1e-4


def test_a_growing_state_is_refused():
    with pytest.raises(CapabilityError, match="grows with every position"):
        model("attention").accelerate("graph")


@pytest.mark.parametrize("mixer", ["gla", "gdn", "kda"])
@torch.inference_mode()
def test_times(figures, mixer):
    """Milliseconds of a step of one sequence, replayed and plain; no figure can fail."""
    record = {}
    for engine in ("eager", "graph"):
        stack = model(mixer, 768, 12)
        stack.accelerate(engine)
        state, x = stack.init_state(1), torch.randn(1, 1, 768, device="cuda")
        for _ in range(5):
            stack.step_(x, state)
        seconds = []
        for _ in range(20):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(20):
                stack.step_(x, state)
            end.record()
            torch.cuda.synchronize()
            seconds.append(begin.elapsed_time(end) / 20)
        record[engine] = statistics.median(seconds)
    figures[f"step of {mixer} 12x768, ms"] = record
