"""A few positions of one sequence go through an engine's steps: the same function, less work."""

import copy

import pytest
import torch

from wishbone.core.testing import trained_looking_
from wishbone.kernels.linear import compiler_missing
from wishbone.plugins import engines
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.stack.backbone import Stack
from wishbone.plugins.transformer.backbone import Transformer

if compiler_missing():
    pytest.skip("needs a C++ compiler: install g++ or clang++", allow_module_level=True)


def native(kind):
    torch.manual_seed(0)
    backbone = trained_looking_(kind(kind.small_config()), 0).eval()
    exact = copy.deepcopy(backbone).double()
    backbone.accelerate("native")
    return backbone, exact


def error(actual, expected):
    return ((actual.double() - expected).norm() / expected.double().norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("kind", [RWKV7, Transformer])
@pytest.mark.parametrize("count", [2, engines.FEW])
def test_a_few_positions_are_those_of_the_reference(monkeypatch, kind, count):
    backbone, exact = native(kind)
    x = torch.randn(1, 20 + count, backbone.width)
    _, before = backbone(x[:, :20])
    steps = []
    step_ = backbone._engine.step_
    monkeypatch.setattr(backbone._engine, "step_", lambda *a: steps.append(1) or step_(*a))
    y, after = backbone(x[:, 20:], before)
    assert len(steps) == count
    expected, expected_after = exact(x.double())
    assert error(y, expected[:, 20:]) < 1e-5
    assert max(error(after[n], expected_after[n]) for n in after) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("kind", [RWKV7, Transformer])
def test_two_may_go_on_from_one_state(kind):
    """As where a piece of text is drawn again: what one writes, the other must not read."""
    backbone, exact = native(kind)
    begin, first, second = (torch.randn(1, n, backbone.width) for n in (9, 4, 4))
    _, state = backbone(begin)
    for _ in range(2):  # room for more positions, which a step fills in place
        backbone.step_(torch.randn(1, 1, backbone.width), state)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    y_first, after_first = backbone(first, state)
    held = {name: tensor.clone() for name, tensor in after_first.items()}
    backbone(second, state)
    assert all(torch.equal(state[name], kept[name]) for name in state)
    assert all(torch.equal(after_first[name], held[name]) for name in held)
    exact_kept = {n: t.double() if t.is_floating_point() else t for n, t in kept.items()}
    assert error(y_first, exact(first.double(), exact_kept)[0]) < 1e-5


@torch.no_grad()
def test_what_is_many_or_large_goes_through_at_once(monkeypatch):
    backbone, _ = native(RWKV7)
    monkeypatch.setattr(backbone._engine, "step_", lambda *_: pytest.fail("stepped"))
    with pytest.raises(pytest.fail.Exception):
        backbone(torch.randn(1, engines.FEW, backbone.width))
    backbone(torch.randn(1, engines.FEW + 1, backbone.width))
    backbone(torch.randn(2, 3, backbone.width))
    backbone(torch.randn(1, 3, backbone.width), mask=torch.tensor([[True, True, False]]))
    monkeypatch.setattr(engines, "SMALL", sum(p.numel() for p in backbone.parameters()) - 1)
    assert engines.few(backbone) == 0
    assert isinstance(backbone, Stack)
