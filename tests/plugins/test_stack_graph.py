"""A stack's step in fixed memory: the numbers of the plain step, for any halves of constant state.

Recording needs a GPU (``tests/gpu/test_gpu_stack.py``); here the static step itself runs each time,
and what no graph could hold is refused by the same trial as there.
"""

import pytest
import torch
from engine_threads import same_from_many_threads
from torch import nn

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.stack.mixer import Mixer
from wishbone.core.model.cuda_graph import Replay
from wishbone.core.model.state_batch import Pool
from wishbone.core.registry.loader import registry
from wishbone.core.testing import trained_looking_
from wishbone.plugins.stack.backbone import Stack, StackConfig
from wishbone.plugins.stack.engines.cuda_graph import StaticStack, attach

CONSTANT = (
    "window", "rwkv7", "linear_attention", "retnet", "gla", "mamba2", "mlstm", "unimatrix",
    "deltanet", "gdn", "kda", "rwkv5", "rwkv6", "rwkv4", "aft", "aaren", "mingru", "minlstm",
    "lstm", "gru", "mamba", "s4d",
)  # fmt: skip


def model(mixer, **fields):
    torch.manual_seed(0)
    config = registry().get("mixer", mixer).small_config() if isinstance(mixer, str) else None
    if isinstance(mixer, str):
        mixer = {"name": mixer} | dict(getattr(config, "__dict__", {}))
    stack = Stack(StackConfig(width=48, layers=2, mixer=mixer, **fields))
    return trained_looking_(stack, 0).eval().requires_grad_(False)


def replayed(stack):
    """The engine on a CPU, as ``accelerate`` would put it on a GPU."""
    stack._engine = Replay(StaticStack(stack), record=False)
    return stack


def steps(step_, x, state):
    """x [T, B, D] -> y [T, B, D]."""
    return torch.stack([step_(row[:, None], state)[:, 0] for row in x])


def error(ours, peer):
    return float((ours - peer).double().norm() / peer.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("mixer", CONSTANT)
def test_steps_are_those_of_the_halves(mixer):
    plain, fast = model(mixer), replayed(model(mixer))
    for batch in (1, 3):
        x = torch.randn(12, batch, 48)
        expected_state, state = plain.init_state(batch), fast.init_state(batch)
        expected = steps(plain.step_, x, expected_state)
        assert fast._engine.takes(x[0][:, None], state)
        # of three rows a graph has four: products round otherwise
        assert error(steps(fast.step_, x, state), expected) < 3e-6
        for name, part in expected_state.items():
            assert state[name].dtype == part.dtype
            assert error(state[name], part) < 2e-5, name


@pytest.mark.parametrize("mixer", ["gdn", "mlstm", "rwkv7"])
def test_the_memory_stays_where_it_is(mixer):
    """A graph writes where it was recorded: no step may leave its result elsewhere."""
    stack = replayed(model(mixer))
    state = stack.init_state(2)
    stack.step_(torch.randn(2, 1, 48), state)
    places = {name: part.data_ptr() for name, part in state.items()}
    before = {name: part.clone() for name, part in state.items()}
    stack.step_(torch.randn(2, 1, 48), state)
    assert {name: part.data_ptr() for name, part in state.items()} == places
    assert all(not torch.equal(state[name], part) for name, part in before.items())


def test_a_state_comes_from_forward_and_goes_back():
    plain, fast = model("mamba2"), replayed(model("mamba2"))
    x = torch.randn(1, 9, 48)
    expected, _ = plain(x)
    _, state = fast(x[:, :4])
    middle = steps(fast.step_, x[:, 4:7].transpose(0, 1), state)
    end, _ = fast(x[:, 7:], state)
    assert error(torch.cat([middle.transpose(0, 1), end], 1), expected[:, 4:]) < 3e-6


def test_a_pool_of_streams_and_threads():
    plain, fast = model("kda"), replayed(model("kda"))
    x = torch.randn(12, 3, 48)
    expected = [steps(plain.step_, x[:, n : n + 1], plain.init_state(1))[:, 0] for n in range(3)]
    pool = Pool(fast, 4)
    slots = [pool.join() for _ in range(3)]
    actual = torch.stack([pool.step(slots, row) for row in x])
    for n, y in enumerate(expected):
        assert error(actual[:, n], y) < 3e-6
    assert same_from_many_threads(fast, 2, steps=20)


def test_a_model_in_bfloat16_keeps_its_types():
    stack = replayed(model("gdn").bfloat16())
    state = stack.init_state(2)
    kinds = {name: part.dtype for name, part in state.items()}
    y = stack.step_(torch.randn(2, 1, 48).bfloat16(), state)
    assert y.dtype == torch.bfloat16
    assert {name: part.dtype for name, part in state.items()} == kinds
    assert not stack._engine.takes(torch.randn(2, 1, 48).double(), state)
    assert not stack._engine.takes(y, {name: part.float() for name, part in state.items()})


@pytest.mark.parametrize(
    ("mixer", "reason"),
    [
        ("attention", "grows with every position"),
        ("hyena", "grows with every position"),
        ("cross_wkv", "what each position reads"),
    ],
)
def test_what_no_graph_can_hold_is_the_reason(mixer, reason):
    with pytest.raises(ValueError, match=reason):
        StaticStack(model(mixer))
    with pytest.raises(ValueError, match="as they are"):
        attach(model("gla"), "bfloat16")
    with pytest.raises(CapabilityError, match="it is for cuda"):
        model("gla").accelerate("graph")


class Asking(Mixer):
    """Looks at its state on the host, as a cache with a length does."""

    def init_state(self, batch, device, dtype):
        return {"seen": torch.zeros(batch, device=device, dtype=dtype)}

    def forward(self, x, state, call):
        factor = 1.0 if int(state["seen"].max()) < 3 else 2.0
        return x * factor, {"seen": state["seen"] + x.shape[1]}


class Growing(Mixer):
    """Says that its state is constant, which it is not."""

    def init_state(self, batch, device, dtype):
        return {"history": torch.zeros(batch, 0, device=device, dtype=dtype)}

    def forward(self, x, state, call):
        return x, {"history": torch.cat([state["history"], x[..., 0]], 1)}


class Telling(Mixer):
    """Brings numbers of the host to the device in every step."""

    def __init__(self, config, place):
        super().__init__(config, place)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, state, call):
        return x * torch.tensor([0.5], device=x.device) * self.scale, state


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Asking, "needs the host in every step"),
        (Growing, "'blocks.0.history' of its state changed its shape"),
        (Telling, r"needs the host in every step \(lift_fresh\)"),
    ],
)
def test_a_half_that_needs_the_host_is_found_before_anything_is_recorded(register, cls, reason):
    from dataclasses import make_dataclass

    cls.Config = make_dataclass(f"{cls.__name__}Config", [])
    register("mixer", "test_hosted", f"{__name__}:{cls.__name__}")
    stack = Stack(StackConfig(width=48, layers=1, mixer="test_hosted")).eval()
    with pytest.raises(ValueError, match=reason):
        StaticStack(stack)


def test_a_step_that_left_its_state_elsewhere_would_be_noticed(monkeypatch):
    """Negative control: nothing copied back into the memory of the graph."""
    plain, fast = model("gla"), replayed(model("gla"))
    monkeypatch.setattr(
        StaticStack, "step", lambda self, x, state, limit: self.stack.plain_step(x, dict(state))
    )
    x = torch.randn(6, 2, 48)
    expected = steps(plain.step_, x, plain.init_state(2))
    assert error(steps(fast.step_, x, fast.init_state(2)), expected) > 1e-2
