"""Packed layers compute what PyTorch does, notice new weights, and step aside where they must."""

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wishbone.plugins.cosyvoice2 import packed

SAME = 1e-5
needs_packing = pytest.mark.skipif(not packed._works(), reason="this PyTorch has no packed layers")


def largest(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.fixture
def layers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield nn.Linear(24, 40), nn.Linear(24, 17), torch.randn(2, 7, 24)


@pytest.mark.parametrize("activation", packed.ACTIVATIONS)
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_linear_layers_side_by_side(layers, activation, adds, count):
    *both, x = layers
    usual = torch.cat([layer(x) for layer in both[:count]], dim=2)
    usual = packed.ACTIVATIONS[activation][2](usual)
    add = torch.randn(usual.shape) if adds else None
    expected = usual if add is None else usual + add
    # as usual with a gradient, packed without one
    assert largest(packed.linear(x, *both[:count], activation=activation, add=add), expected) < SAME
    with torch.inference_mode():
        result = packed.linear(x, *both[:count], activation=activation, add=add)
    assert largest(result, expected.detach()) < SAME


@pytest.mark.parametrize(("kernel", "stride", "dilation", "padding"),
                         [(1, 1, 1, 0), (7, 1, 1, 3), (11, 1, 5, 25), (6, 3, 1, 1)])  # fmt: skip
def test_convolutions(kernel, stride, dilation, padding):
    layer = nn.Conv1d(18, 20, kernel, stride, dilation=dilation)
    for length in (kernel * dilation + 5, 300):
        x = torch.randn(2, length, 18)
        expected = F.conv1d(
            x.mT, layer.weight, layer.bias, stride, padding, dilation
        ).mT.detach()  # fmt: skip
        assert largest(packed.convolve(x, layer, padding).detach(), expected) < SAME
        with torch.inference_mode():
            assert largest(packed.convolve(x, layer, padding), expected) < SAME


def test_a_convolution_as_a_product_of_neighbours(layers):
    layer, x = nn.Conv1d(24, 12, 3), layers[2]
    with torch.no_grad():
        result = packed.linear(packed.neighbours(x, 3), layer)
        assert largest(result, layer(x.mT).mT) < SAME


@needs_packing
def test_new_weights_are_noticed(layers):
    one, two, x = layers
    convolution = nn.Conv1d(24, 8, 3)
    with torch.no_grad():
        before = packed.linear(x, one, two), packed.convolve(x, convolution)
        two.weight.mul_(2.0)
        convolution.weight.data = convolution.weight * 3
        after = packed.linear(x, one, two), packed.convolve(x, convolution)
        assert (
            largest(after[0][..., 40:], two(x)) < SAME < largest(*(y[0] for y in (before, after)))
        )
        assert largest(after[1], convolution(x.mT).mT) < SAME


@needs_packing
def test_one_convolution_both_ways(layers):
    layer, x = nn.Conv1d(24, 8, 3), layers[2]
    with torch.no_grad():
        for _ in range(2):
            once = packed.convolve(x, layer)
            assert largest(packed.linear(packed.neighbours(x, 3), layer), once) < SAME


@needs_packing
def test_a_gradient_flows_and_nothing_is_kept_of_layers_that_are_gone(layers):
    one, two, x = layers
    packed.linear(x, one, two, activation="gelu").sum().backward()
    assert one.weight.grad.abs().max() > 0 and two.bias.grad.abs().max() > 0
    layer = nn.Linear(24, 8)
    with torch.no_grad():
        packed.linear(x, layer)
    before = len(packed._packed_weights)
    del layer
    gc.collect()
    assert len(packed._packed_weights) < before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_computed_as_usual(layers, dtype):
    one, two, x = (tensor.to(dtype) for tensor in layers)
    with torch.no_grad():
        assert torch.equal(packed.linear(x, one), one(x))
        assert largest(packed.linear(x, one, two)[..., 40:], two(x)) <= 0.02
        layer = nn.Conv1d(24, 8, 3, dtype=dtype)
        assert torch.equal(packed.convolve(x, layer), layer(x.mT).mT)


def test_without_these_functions_everything_is_as_usual(layers, monkeypatch):
    one, _, x = layers
    monkeypatch.setattr(packed, "_works", lambda: False)
    with torch.no_grad():
        assert torch.equal(packed.linear(x, one), one(x))
