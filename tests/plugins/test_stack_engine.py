"""The C++ step of stacks is the readable step of their halves, for every family with a matrix."""

import copy
import ctypes

import pytest
import torch
from engine_threads import same_from_many_threads

from wishbone.core.contract.errors import CapabilityError
from wishbone.core.registry.loader import registry
from wishbone.core.testing import trained_looking_
from wishbone.kernels.linear import compiler_missing, dequantized, narrowed
from wishbone.plugins.delta.gdn import GatedDeltaNet
from wishbone.plugins.gla.mixer import GatedLinearAttention
from wishbone.plugins.linear_attention.mixer import LinearAttention
from wishbone.plugins.stack.backbone import Stack, StackConfig
from wishbone.plugins.stack.engines import native
from wishbone.plugins.stack.engines.recipe import MAPS, PAIRS, Recipe

if compiler_missing():
    pytest.skip("needs a C++ compiler: install g++ or clang++", allow_module_level=True)

FAMILIES = (
    "linear_attention", "retnet", "gla", "mamba2", "mlstm", "unimatrix", "deltanet", "gdn", "kda",
    "rwkv5", "rwkv6", "rwkv7",
)  # fmt: skip
EVERY = pytest.mark.parametrize("mixer", FAMILIES)
EXACT = 5e-6
"""Relative to float64; worst seen 2e-6, after 24 positions of six blocks."""


def model(mixer, small=True, seed=0, **fields):
    """A stack of one mixer: small heads of odd sizes, or the defaults at a width of 128."""
    torch.manual_seed(seed)
    slot = {"name": mixer}
    if small:
        slot |= vars(registry().get("mixer", mixer).small_config())
    config = StackConfig(width=48 if small else 128, layers=2, mixer=slot, **fields)
    return trained_looking_(Stack(config), seed).eval()


def error(actual, expected):
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def steps(backbone, x, state):
    return torch.stack([backbone.step_(position, state) for position in x])


def compare(backbone, exact, batch, length=24):
    """Relative error of outputs and of the worst state after ``length`` steps."""
    x = torch.randn(length, batch, 1, backbone.width)
    state, exact_state = backbone.init_state(batch), exact.init_state(batch)
    exact_y = steps(exact, x.double(), exact_state)
    actual = steps(backbone, x, state)
    assert list(state) == list(exact_state)
    worst = max(error(state[name], exact_state[name]) for name in exact_state)
    return max(error(actual, exact_y), worst)


@torch.no_grad()
@EVERY
@pytest.mark.parametrize("small", [True, False])
def test_steps_are_those_of_the_halves(mixer, small):
    backbone = model(mixer, small)
    assert backbone.accelerate("native") == "native"
    exact = copy.deepcopy(backbone).double()
    for batch in (1, 5):
        assert compare(backbone, exact, batch) < EXACT


@torch.no_grad()
def test_many_steps_stay_together():
    for mixer in ("gdn", "mlstm", "retnet"):
        backbone = model(mixer)
        backbone.accelerate("native")
        assert compare(backbone, copy.deepcopy(backbone).double(), 2, 400) < 2e-5


@torch.no_grad()
@EVERY
@pytest.mark.parametrize(("weights", "limit"), [("bfloat16", 3e-2), ("int8", 1e-1)])
def test_narrow_weights_stay_near_the_model(mixer, weights, limit):
    backbone = model(mixer, small=False)
    backbone.accelerate("native", weights)
    assert 1e-4 < compare(backbone, copy.deepcopy(backbone).double(), 2, 8) < limit


@torch.no_grad()
def test_narrow_weights_are_those_that_are_kept():
    """Against float64 with the same rounded matrices: the step itself adds nothing."""
    backbone = model("retnet", small=False)
    exact = copy.deepcopy(backbone).double()
    for name, parameter in exact.named_parameters():
        if parameter.ndim == 2:
            parameter.data = dequantized(*narrowed(parameter, "bfloat16")).double()
        assert "norm" in name or parameter.ndim == 2
    backbone.accelerate("native", "bfloat16")
    assert compare(backbone, exact, 2) < EXACT


@torch.no_grad()
@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "layer", "norm_in": True},
        {"share": True},
        {"ffn": "rwkv4_channel_mix"},
        {"ffn": "rwkv5_channel_mix"},
        {"mixer": "rwkv6", "ffn": "rwkv6_channel_mix"},
        {"mixer": "rwkv7", "ffn": "rwkv7_channel_mix"},
        {"blocks": [{"mixer": "gdn"}, {"mixer": "rwkv7", "times": 2}, {"mixer": "kda"}]},
        {"blocks": [{"mixer": "gla"}, {"mixer": "none"}, {"mixer": "rwkv5", "ffn": "none"}]},
    ],
)
def test_other_stacks(fields):
    torch.manual_seed(0)
    shape = {} if "blocks" in fields else {"mixer": "gdn", "layers": 3}
    backbone = trained_looking_(Stack(StackConfig(width=64, **{**shape, **fields})), 0).eval()
    assert backbone.accelerate("native") == "native"
    assert compare(backbone, copy.deepcopy(backbone).double(), 2) < EXACT


@torch.no_grad()
def test_several_heads_of_values_share_a_key():
    mixer = {"name": "gdn", "head_size": 16, "value_heads": 8, "value_size": 20}
    torch.manual_seed(0)
    backbone = trained_looking_(Stack(StackConfig(width=64, layers=2, mixer=mixer)), 0).eval()
    backbone.accelerate("native")
    assert compare(backbone, copy.deepcopy(backbone).double(), 3) < EXACT


@torch.no_grad()
@EVERY
def test_it_goes_on_from_many_positions_and_back(mixer):
    backbone = model(mixer)
    exact = copy.deepcopy(backbone).double()
    x = torch.randn(2, 17, 48)
    expected, _ = exact(x.double())
    backbone.accelerate("native")
    first, state = backbone(x[:, :6])
    middle = torch.cat([backbone.step_(x[:, t : t + 1], state) for t in range(6, 11)], 1)
    last, _ = backbone(x[:, 11:], state)
    assert error(torch.cat([first, middle, last], 1), expected) < EXACT


@EVERY
@pytest.mark.parametrize("batch", [1, 3])
def test_threads_step_states_of_their_own(mixer, batch):
    backbone = model(mixer)
    assert backbone.accelerate("native") == "native"
    assert same_from_many_threads(backbone, batch)


@torch.no_grad()
@EVERY
def test_two_threads_of_one_step_give_what_one_gives(monkeypatch, mixer):
    backbone, x = model(mixer), torch.randn(9, 3, 1, 48)
    actual = []
    for number in ("1", "2", "3"):
        monkeypatch.setenv("WISHBONE_THREADS", number)
        backbone.accelerate("native")
        assert backbone._engine.threads == int(number)
        actual.append(steps(backbone, x, backbone.init_state(3)))
    assert torch.equal(actual[0], actual[1]) and torch.equal(actual[0], actual[2])


@torch.no_grad()
def test_copies_of_the_dictionary_stay_what_they_were():
    backbone = model("mlstm")
    backbone.accelerate("native")
    state = backbone.init_state(2)
    backbone.step_(torch.randn(2, 1, 48), state)
    fork, saved = dict(state), {name: tensor.clone() for name, tensor in state.items()}
    backbone.step_(torch.randn(2, 1, 48), state)
    assert all(torch.equal(fork[name], saved[name]) for name in saved)
    assert not torch.equal(state["blocks.0.matrix"], saved["blocks.0.matrix"])


@torch.no_grad()
def test_states_that_do_not_lie_in_order_and_types_that_are_kept():
    backbone = model("gdn").bfloat16()
    backbone.accelerate("native", "bfloat16")
    state = backbone.init_state(2)
    kinds = {name: tensor.dtype for name, tensor in state.items()}
    assert set(kinds.values()) == {torch.bfloat16, torch.float32}
    turned = {n: t.transpose(0, -1).contiguous().transpose(0, -1) for n, t in state.items()}
    y = backbone.step_(torch.ones(2, 1, 48).bfloat16(), state)
    again = backbone.step_(torch.ones(2, 1, 48).bfloat16(), turned)
    assert y.dtype == torch.bfloat16 and torch.equal(y, again)
    assert {name: tensor.dtype for name, tensor in state.items()} == kinds


@torch.no_grad()
def test_what_it_does_not_take_is_plain_pytorchs():
    backbone, x = model("gla"), torch.randn(17, 1, 48)
    backbone.accelerate("native")
    engine, state = backbone._engine, backbone.init_state(17)
    assert not engine.takes(x, state)
    assert engine.takes(x[:16], backbone.init_state(16))
    assert not engine.takes(x[:2].double(), backbone.init_state(2, dtype=torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not engine.takes(x[:2], backbone.init_state(2))
    assert backbone.step_(x, state).shape == x.shape


@pytest.mark.parametrize(
    ("mixer", "ffn", "message"),
    [
        ("attention", "swiglu", "no recipe of Attention"),
        ("mingru", "swiglu", "no recipe of MinGRU"),
        ("gla", "pattention", "no recipe of Pattention"),
    ],
)
def test_a_half_without_a_recipe_is_the_reason(mixer, ffn, message):
    backbone = Stack(StackConfig(width=64, layers=1, mixer=mixer, ffn=ffn))
    with pytest.raises(CapabilityError, match=message):
        backbone.accelerate("native")
    assert backbone.accelerate("auto") == "eager"


class Doubled(GatedLinearAttention):
    """A subclass that computes something else, and wrote down nothing."""

    def forward(self, x, state, call):
        y, state = super().forward(x, state, call)
        return 2 * y, state


class Undecayed(GatedDeltaNet):
    """The same, of a part of it."""

    def decay(self, x, kind):
        return super().decay(x, kind) / 2


class Renamed(LinearAttention):
    """A subclass that changes nothing."""


@pytest.mark.parametrize(
    ("cls", "reason"), [(Doubled, "whose forward"), (Undecayed, "whose decay"), (Renamed, "")]
)
def test_a_subclass_that_computes_something_else_needs_a_recipe_of_its_own(register, cls, reason):
    register("mixer", "test_subclass", f"{__name__}:{cls.__name__}")
    backbone = Stack(StackConfig(width=64, layers=1, mixer="test_subclass"))
    if not reason:
        assert backbone.accelerate("native") == "native"
        return
    with pytest.raises(CapabilityError, match=reason):
        backbone.accelerate("native")


def test_a_recipe_that_forgets_a_part_of_the_state_is_refused(monkeypatch):
    monkeypatch.setattr(Recipe, "store", lambda *_: None)
    monkeypatch.setattr(Recipe, "load", lambda recipe, name, size: recipe.room(size))
    with pytest.raises(CapabilityError, match=r"leave out 'blocks\.0\.log_scale'"):
        model("mlstm").accelerate("native")


@torch.no_grad()
def test_a_wrong_number_is_seen():
    """The comparison above can fail: one factor of one operation."""
    backbone = model("gla")
    backbone.accelerate("native")
    exact = copy.deepcopy(backbone).double()
    assert compare(backbone, exact, 1) < EXACT
    ops = [op for op in backbone._engine.ops if op.kind == MAPS.index("log_sigmoid")]
    ops[1].factor *= 1.01
    assert compare(backbone, exact, 1) > 10 * EXACT


@torch.no_grad()
def test_reading_after_writing_is_seen(monkeypatch):
    """RWKV-5 reads before it writes: without that flag it is another model."""
    monkeypatch.setattr("wishbone.plugins.stack.engines.recipe.EARLY", 0)
    backbone = model("rwkv5")
    backbone.accelerate("native")
    assert compare(backbone, copy.deepcopy(backbone).double(), 1) > 1e-2


def test_both_languages_have_the_same_names():
    """Orders of the enumerations, by what each computes."""
    functions = {
        "same": lambda x: x,
        "silu": torch.nn.functional.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softplus": torch.nn.functional.softplus,
        "log_sigmoid": torch.nn.functional.logsigmoid,
        "exp": torch.exp,
        "elu_1": lambda x: torch.nn.functional.elu(x) + 1,
        "squared_relu": lambda x: x.relu().square(),
    }
    pairs = {
        "add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "larger": torch.maximum,
    }  # fmt: skip
    assert tuple(functions) == MAPS and tuple(pairs) == PAIRS
    x, y = torch.linspace(-9, 9, 19), torch.linspace(4, -5, 19)
    backbone = model("gla")
    backbone.accelerate("native")
    step = backbone._engine._step
    for kinds, code in ((functions, "map"), (pairs, "pair")):
        for kind, function in kinds.items():
            recipe = Recipe("float32")
            first, second = recipe.room(19), recipe.room(19)
            form = getattr(recipe, code)
            out = form(kind, first) if code == "map" else form(kind, first, second)
            ops = native.packed(recipe.ops)
            memory = torch.zeros(1, recipe.width)
            memory[0, :19], memory[0, second.place : second.place + 19] = x, y
            step(ops, len(ops), 1, 1, recipe.width, memory.data_ptr(), *[None] * 4, 0)
            expected = function(x) if code == "map" else function(x, y)
            actual = memory[0, out.place : out.place + 19]
            assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-6), kind


def test_an_operation_has_one_size_in_both_languages(monkeypatch):
    monkeypatch.setattr(native, "Op", ctypes.c_int64)
    with pytest.raises(CapabilityError, match="size of an operation"):
        model("gla").accelerate("native")
