"""Every way to step an RWKV-7 is the same RWKV-7."""

import copy
import ctypes

import pytest
import torch
from engine_threads import same_from_many_threads

from wishbone.core.contract.engines import parse_engine
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.testing import check_class, trained_looking_
from wishbone.kernels.linear import build, compiler_missing, dequantized, narrowed
from wishbone.plugins import engines
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.stack import backbone as module

if compiler_missing():
    pytest.skip("needs a C++ compiler: install g++ or clang++", allow_module_level=True)

LOW_RANK = ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")
CONFIGS = [
    RWKV7.small_config(),
    RWKV7.Config(width=128, layers=2, head_size=64),
    RWKV7.Config(width=96, layers=1, head_size=32, ffn_width=100, gate_rank=40, decay_rank=8),
]


def model(config=None, seed=0):
    torch.manual_seed(seed)
    config = RWKV7.small_config() if config is None else config
    return trained_looking_(RWKV7(config), seed).eval()


def as_kept(backbone, weights):
    """A float64 copy whose matrices are what ``weights`` leaves of them."""
    exact = copy.deepcopy(backbone).double()
    low = "float32" if weights == "float32" else "bfloat16"
    for name, parameter in exact.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last in LOW_RANK:
            parameter.data = dequantized(*narrowed(parameter, low)).double()
        elif parameter.ndim == 2 and last == "weight":
            parameter.data = dequantized(*narrowed(parameter, weights)).double()
    return exact


def error(actual, exact_y):
    return ((actual.double() - exact_y).norm() / exact_y.norm()).item()


def steps(backbone, x, state):
    return torch.stack([backbone.step_(position, state) for position in x])


def compare(backbone, exact, batch, length=24):
    """Relative error of outputs and of the worst state after ``length`` steps."""
    x = torch.randn(length, batch, 1, backbone.width)
    state, exact_state = backbone.init_state(batch), exact.init_state(batch)
    exact_y = steps(exact, x.double(), exact_state)
    actual = steps(backbone, x, state)
    worst = max(error(state[name], exact_state[name]) for name in exact_state)
    return max(error(actual, exact_y), worst)


@torch.no_grad()
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.width}x{c.layers}")
def test_against_float64_with_the_same_weights(weights, config):
    backbone = model(config)
    assert backbone.accelerate("native", weights) == "native"
    exact = as_kept(backbone, weights)
    # int8 through C++ has vectors of sixteen bits
    limit = 3e-4 if weights == "int8" else 3e-6
    for batch in (1, 2, 5):
        assert compare(backbone, exact, batch) < limit


@torch.no_grad()
@pytest.mark.parametrize(("weights", "limit"), [("bfloat16", 8e-3), ("int8", 3e-2)])
def test_narrow_weights_stay_near_the_model(weights, limit):
    backbone = model()
    backbone.accelerate("native", weights)
    assert 1e-4 < compare(backbone, copy.deepcopy(backbone).double(), 2) < limit


@torch.no_grad()
def test_a_wrong_scale_is_seen():
    """The comparison above can fail: one row of one matrix of three blocks."""
    backbone = model()
    backbone.accelerate("native", "int8")
    exact = as_kept(backbone, "int8")
    assert compare(backbone, exact, 1) < 3e-4
    scale = ctypes.c_float.from_address(backbone._engine.blocks[1].output.scale)
    scale.value *= 1.5
    assert compare(backbone, exact, 1) > 1e-3


def test_the_contract_holds():
    class Fast(RWKV7):
        """Refuses float64, which the suite would choose and no engine computes in."""

        def eval(self):
            super().eval()
            if self.norm_in.weight.dtype == torch.float32:
                assert self.accelerate("native") == "native"
            return self

        def forward(self, x, state=None, *, mask=None):
            if x.dtype == torch.float64:
                raise RuntimeError("float32 only")
            return super().forward(x, state, mask=mask)

    results = check_class("backbone", Fast, RWKV7.small_config())
    # what is shared out or listened to in training no engine calls, as nobody trains through one
    wrong = [r for r in results if not r.passed and r.name not in ("shares", "mixers")]
    assert not wrong, wrong


@torch.no_grad()
def test_the_engine_may_change_in_the_middle():
    backbone, x = model(), torch.randn(12, 2, 1, 48)
    exact = copy.deepcopy(backbone).double()
    exact_y = steps(exact, x.double(), exact.init_state(2))
    state, actual = backbone.init_state(2), []
    for position, engine in zip(x, ("native", "eager", "native") * 4, strict=True):
        backbone.accelerate(engine)
        actual.append(backbone.step_(position, state))
    assert error(torch.stack(actual), exact_y) < 3e-6


@torch.no_grad()
def test_copies_of_the_dictionary_stay_what_they_were():
    backbone = model()
    backbone.accelerate("native")
    state = backbone.init_state(2)
    backbone.step_(torch.randn(2, 1, 48), state)
    fork, saved = dict(state), {name: tensor.clone() for name, tensor in state.items()}
    backbone.step_(torch.randn(2, 1, 48), state)
    assert all(torch.equal(fork[name], saved[name]) for name in saved)
    assert not torch.equal(state["blocks.0.wkv"], saved["blocks.0.wkv"])


@torch.no_grad()
def test_states_that_do_not_lie_in_order():
    backbone, x = model(), torch.randn(3, 1, 48)
    state = backbone(torch.randn(3, 5, 48))[1]
    exact_y = {name: tensor.clone() for name, tensor in state.items()}
    expected = backbone.step_(x, exact_y)
    backbone.accelerate("native")
    turned = {n: t.transpose(0, -1).contiguous().transpose(0, -1) for n, t in state.items()}
    assert torch.allclose(backbone.step_(x, turned), expected, atol=1e-5)
    assert torch.allclose(turned["blocks.2.wkv"], exact_y["blocks.2.wkv"], atol=1e-5)


@torch.no_grad()
def test_a_bfloat16_model_keeps_its_types():
    backbone = model().bfloat16()
    exact = copy.deepcopy(backbone).double()
    backbone.accelerate("native", "bfloat16")
    x, state = torch.randn(6, 1, 1, 48).bfloat16(), backbone.init_state(1)
    kinds = {name: tensor.dtype for name, tensor in state.items()}
    actual = steps(backbone, x, state)
    assert actual.dtype == torch.bfloat16
    assert {name: tensor.dtype for name, tensor in state.items()} == kinds
    assert error(actual, steps(exact, x.double(), exact.init_state(1))) < 2e-2


@torch.no_grad()
@pytest.mark.parametrize(("weights", "limit"), [("float32", 3e-6), ("bfloat16", 1.5e-2)])
@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda c: f"{c.width}x{c.layers}")
def test_many_positions_at_once(monkeypatch, weights, limit, config):
    monkeypatch.setattr("wishbone.plugins.rwkv7.engines.native_prefill.PIECE", 64)
    backbone = model(config)
    exact = copy.deepcopy(backbone).double()
    backbone.accelerate("native", weights)
    monkeypatch.setattr(module.Stack, "_forward", lambda *a: pytest.fail("plain"))
    x = torch.randn(2, 150, config.width)
    actual, middle = backbone(x[:, :83])
    remaining, after = backbone(x[:, 83:], middle)
    monkeypatch.undo()
    exact_y, exact_after = exact(x.double())
    assert error(torch.cat((actual, remaining), 1), exact_y) < limit
    assert max(error(after[name], exact_after[name]) for name in after) < limit


@torch.no_grad()
def test_what_the_engine_takes_is_what_it_computes_right():
    backbone = model()
    backbone.accelerate("native")
    engine, state = backbone._engine, backbone.init_state(1)
    wide = {name: tensor.double() for name, tensor in state.items()}

    def vectors(batch, length, dtype=torch.float32):
        return torch.zeros(batch, length, 48, dtype=dtype)

    assert engine.takes(vectors(1, 1), state) and engine.takes(vectors(16, 1), state)
    assert not engine.takes(vectors(17, 1), state) and not engine.takes(vectors(0, 1), state)
    # one position is a step, two are many
    assert engine.takes_many(vectors(1, 2), state) and not engine.takes_many(vectors(1, 1), state)
    for asked, length in ((engine.takes, 1), (engine.takes_many, 2)):
        assert asked(vectors(1, length, torch.bfloat16), state)
        assert not asked(vectors(1, length, torch.float64), state)
        assert not asked(vectors(1, length), wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert engine.takes_many(vectors(1, 2), state)
        assert not engine.takes(vectors(1, 1), state)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not engine.takes_many(vectors(1, 2), state)


@torch.no_grad()
def test_a_batch_wider_than_a_piece_goes_position_by_position(monkeypatch):
    monkeypatch.setattr("wishbone.plugins.rwkv7.engines.native_prefill.PIECE", 2)
    backbone, x = model(), torch.randn(5, 4, 48)
    exact_y, _ = copy.deepcopy(backbone).double()(x.double())
    backbone.accelerate("native")
    monkeypatch.setattr(module.Stack, "_forward", lambda *a: pytest.fail("plain"))
    assert error(backbone(x)[0], exact_y) < 3e-6


@torch.no_grad()
def test_a_long_text_goes_in_pieces_without_an_engine(monkeypatch):
    backbone, x = model().double(), torch.randn(2, 300, 48, dtype=torch.float64)
    mask = torch.rand(2, 300) < 0.8
    complete = [backbone(x), backbone(x, mask=mask)]
    monkeypatch.setattr(module, "PIECE", 256)
    for (y, after), how in zip(complete, (None, mask), strict=True):
        actual, state = backbone(x, mask=how)
        saved = slice(None) if how is None else how
        assert torch.allclose(actual[saved], y[saved], atol=1e-10)
        assert all(torch.allclose(state[name], after[name], atol=1e-6) for name in after)


def test_gradients_do_not_go_through_an_engine():
    backbone, x = model(), torch.randn(1, 6, 48, requires_grad=True)
    backbone.accelerate("native")
    backbone(x)[0].sum().backward()
    assert x.grad.abs().sum() > 0
    backbone.train()
    assert backbone(x)[0].requires_grad


@pytest.mark.parametrize(
    ("engine", "weights", "message"),
    [
        ("fast", "float32", "no such name"),
        ("native", "int4", "no such name"),
        ("eager", "int8", "reads the weights as they are"),
        ("graph", "float32", "for cuda"),
        ("compiled", "float32", "'native' took its place"),
    ],
)
def test_what_cannot_be_had_is_refused(engine, weights, message):
    backbone = model()
    with pytest.raises(CapabilityError, match=message):
        backbone.accelerate(engine, weights)


def test_an_engine_of_earlier_versions_names_the_one_in_its_place():
    with pytest.raises(CapabilityError, match="'native' took its place"):
        parse_engine("compiled:int8")


@torch.no_grad()
def test_two_threads_give_what_one_gives(monkeypatch):
    backbone, x = model(), torch.randn(9, 3, 1, 48)
    actual = []
    for number in ("1", "2"):
        monkeypatch.setenv("WISHBONE_THREADS", number)
        backbone.accelerate("native", "bfloat16")
        assert backbone._engine.threads == int(number)
        state = backbone.init_state(3)
        actual.append(torch.stack([backbone.step_(position, state) for position in x]))
    assert torch.equal(*actual)


def test_odd_heads_and_float64_are_refused_with_a_reason():
    with pytest.raises(CapabilityError, match="heads of 24"):
        model(RWKV7.Config(width=48, layers=1, head_size=24)).accelerate("native")
    with pytest.raises(CapabilityError, match="float64"):
        model().double().accelerate("native")
    assert model().double().accelerate("auto") == "eager"


def test_auto_builds_once_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WISHBONE_CACHE", str(tmp_path))
    build._announce.cache_clear()
    backbone = model()
    assert backbone.accelerate() == "native" and len(list(tmp_path.glob("native/*.so"))) == 2
    announced = capsys.readouterr().err.splitlines()
    assert len(announced) == 1 and announced[0].startswith("building the C++ decoding steps, once")
    monkeypatch.setattr(build, "_run", lambda *a: pytest.fail("built again"))
    assert backbone.accelerate() == backbone.accelerate("auto", "int8") == "native"
    assert backbone.accelerate("eager") == "eager" and backbone._engine is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("compiler", ["none", "broken"])
def test_auto_is_eager_with_one_note_where_nothing_can_be_built(
    compiler, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("WISHBONE_CACHE", str(tmp_path))
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho cannot >&2; exit 1\n")
    broken.chmod(0o700)
    program = str(broken) if compiler == "broken" else None
    monkeypatch.setattr(build.shutil, "which", lambda name: program)
    engines.note_once.cache_clear()
    backbone = model()
    assert backbone.accelerate() == backbone.accelerate() == "eager"
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    reason = "no C++ compiler found" if compiler == "none" else "c++ failed: cannot"
    assert len(notes) == 1 and reason in notes[0]
    with pytest.raises(CapabilityError, match="no C" if compiler == "none" else "failed"):
        backbone.accelerate("native")


@pytest.mark.parametrize("engine", ["eager", "native"])
@pytest.mark.parametrize("batch", [1, 3])
def test_threads_step_states_of_their_own(engine, batch):
    backbone = model(CONFIGS[1])
    assert backbone.accelerate(engine) == engine
    assert same_from_many_threads(backbone, batch)


@torch.no_grad()
def test_other_weights_end_an_engine():
    backbone, other, x = model(), model(seed=1), torch.randn(1, 1, 48)
    assert backbone.accelerate("native") == "native"
    backbone.load_state_dict(other.state_dict())
    assert torch.equal(
        backbone.step_(x, backbone.init_state(1)), other.step_(x, other.init_state(1))
    )


def test_a_copy_begins_as_plain_pytorch():
    backbone = model()
    backbone.accelerate("native")
    assert copy.deepcopy(backbone)._engine is None
