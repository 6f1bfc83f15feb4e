"""Every way to step the Transformer is the same Transformer."""

import copy
import ctypes

import pytest
import torch
from engine_threads import same_from_many_threads

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.testing import check_class, trained_looking_
from wishbone.kernels.linear import compiler_missing, dequantized, narrowed
from wishbone.plugins.transformer.backbone import Transformer, TransformerConfig

if compiler_missing():
    pytest.skip("needs a C++ compiler: install g++ or clang++", allow_module_level=True)

CONFIGS = [
    Transformer.small_config(),
    TransformerConfig(width=128, layers=2, heads=2, kv_heads=1, ffn_width=100, qkv_bias=False),
    TransformerConfig(width=320, layers=1, heads=20, kv_heads=2, ffn_width=64),
]


def model(config=None):
    torch.manual_seed(0)
    config = Transformer.small_config() if config is None else config
    return trained_looking_(Transformer(config), 0).eval()


def as_kept(backbone, weights):
    """A float64 copy whose matrices are what ``weights`` leaves of them."""
    exact = copy.deepcopy(backbone).double()
    for parameter in exact.parameters():
        if parameter.ndim == 2:
            parameter.data = dequantized(*narrowed(parameter, weights)).double()
    return exact


def error(actual, expected):
    return ((actual.double() - expected).norm() / expected.double().norm()).item()


def compare(backbone, exact, batch, length=70):
    """Relative error of outputs and of the worst cache, from a state of rows of mixed lengths."""
    x = torch.randn(batch, 9, backbone.width)
    mask = torch.arange(9) < torch.tensor([[3], [9], [5], [1], [9]])[:batch]
    more = torch.randn(length, batch, 1, backbone.width)
    expected_state, state = exact(x.double(), mask=mask)[1], exact(x.double(), mask=mask)[1]
    state = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    expected = torch.stack([exact.step_(position.double(), expected_state) for position in more])
    actual = torch.stack([backbone.step_(position, state) for position in more])
    assert all(state[name].shape == expected_state[name].shape for name in expected_state)
    worst = max(error(state[name], expected_state[name]) for name in expected_state)
    return max(error(actual, expected), worst)


@torch.no_grad()
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.width}x{c.layers}")
def test_against_float64_with_the_same_weights(weights, config):
    backbone = model(config)
    assert backbone.accelerate("native", weights) == "native"
    exact = as_kept(backbone, weights)
    limit = 3e-4 if weights == "int8" else 3e-6
    for batch in (1, 2, 5):
        assert compare(backbone, exact, batch) < limit


@torch.no_grad()
def test_a_wrong_scale_is_seen():
    """The comparison above can fail: one row of one matrix of two blocks."""
    backbone = model()
    backbone.accelerate("native", "int8")
    exact = as_kept(backbone, "int8")
    assert compare(backbone, exact, 1) < 3e-4
    ctypes.c_float.from_address(backbone._engine.blocks[1].down.scale).value *= 1.5
    assert compare(backbone, exact, 1) > 1e-3


@torch.no_grad()
def test_many_positions_back():
    """Longer than any block of scores, and through several growths of the cache."""
    backbone = model()
    exact = copy.deepcopy(backbone).double()
    backbone.accelerate("native")
    assert compare(backbone, exact, 1, length=700) < 3e-6


def test_the_contract_holds():
    class Fast(Transformer):
        """Refuses float64, which the suite would choose and no engine computes in."""

        def eval(self):
            super().eval()
            if self.norm_out.weight.dtype == torch.float32:
                assert self.accelerate("native") == "native"
            return self

        def forward(self, x, state=None, *, mask=None):
            if x.dtype == torch.float64:
                raise RuntimeError("float32 only")
            return super().forward(x, state, mask=mask)

    wrong = [r for r in check_class("backbone", Fast, Transformer.small_config()) if not r.passed]
    assert not wrong, wrong


@torch.no_grad()
def test_forks_of_a_stepped_dictionary_do_not_meet():
    backbone = model()
    exact = copy.deepcopy(backbone).double()
    backbone.accelerate("native")
    x = torch.randn(4, 1, 1, 64)
    state = backbone.init_state(1)
    backbone.step_(x[0], state)
    fork = dict(state)
    backbone.step_(x[1], state)
    backbone.step_(x[2], fork)
    for order, held in (((0, 1, 3), state), ((0, 2, 3), fork)):
        expected, _ = exact(torch.cat([x[i] for i in order], 1).double())
        assert error(backbone.step_(x[3], held), expected[:, 2:]) < 3e-6


@pytest.mark.parametrize("engine", ["eager", "native"])
@pytest.mark.parametrize("batch", [1, 3])
def test_threads_step_states_of_their_own(engine, batch):
    backbone = model(CONFIGS[1])
    assert backbone.accelerate(engine) == engine
    assert same_from_many_threads(backbone, batch)


@torch.no_grad()
def test_the_engine_may_change_in_the_middle():
    backbone, x = model(), torch.randn(12, 2, 1, 64)
    exact = copy.deepcopy(backbone).double()
    expected, _ = exact(x.double().squeeze(2).transpose(0, 1))
    state, actual = backbone.init_state(2), []
    for position, engine in zip(x, ("native", "eager", "native") * 4, strict=True):
        backbone.accelerate(engine)
        actual.append(backbone.step_(position, state))
    assert error(torch.cat(actual, 1), expected) < 3e-6


@torch.no_grad()
def test_two_threads_give_what_one_gives(monkeypatch):
    backbone, x = model(), torch.randn(9, 3, 1, 64)
    actual = []
    for number in ("1", "2"):
        monkeypatch.setenv("WISHBONE_THREADS", number)
        backbone.accelerate("native", "bfloat16")
        assert backbone._engine.threads == int(number)
        state = backbone.init_state(3)
        actual.append(torch.stack([backbone.step_(position, state) for position in x]))
    assert torch.equal(*actual)


def test_odd_heads_are_refused_with_a_reason():
    config = TransformerConfig(width=24, layers=1, heads=1, kv_heads=1, ffn_width=32)
    with pytest.raises(CapabilityError, match="heads of 24"):
        model(config).accelerate("native")
    assert model(config).accelerate() == "eager"
