"""The activation in C++ is the one of PyTorch, and stands back where it must."""

import pytest
import torch

from wishbone.kernels.linear.build import compiler_missing
from wishbone.plugins.cosyvoice2.vocoder import snake
from wishbone.plugins.cosyvoice2.vocoder.layers import Snake

native = pytest.mark.skipif(bool(compiler_missing()), reason="no C++ compiler")


def exact(x, layer):
    alpha = layer.alpha.double()
    return x.double() + (x.double() * alpha).sin() ** 2 / (alpha + 1e-9)


@native
@pytest.mark.parametrize("width", [64, 18, 1])
def test_it_is_the_formula(width):
    snake.prepare()
    layer, draw = Snake(width), torch.Generator().manual_seed(0)
    for scale in (0.01, 1.0, 30.0):
        x = scale * torch.randn(2, 37, width, generator=draw)
        with torch.no_grad():
            layer.alpha.copy_(0.2 + 3 * torch.rand(width, generator=draw))
            result = snake.fused(x, layer.alpha, 1.0 / (layer.alpha + 1e-9), 5)
            assert result.shape == (2, 42, width) and torch.equal(layer(x), result[:, 5:])
            # of a number, float32 keeps seven digits; its sine can be no truer than a x is
            allowed = 3e-7 * (1 + float((x * layer.alpha).abs().max())) / float(layer.alpha.min())
            assert (result[:, 5:] - exact(x, layer)).abs().max() < allowed
            assert (x - exact(x, layer)).abs().max() > 30 * allowed or scale != 1.0


def test_where_it_does_not_apply(monkeypatch):
    layer, x = Snake(8), torch.randn(1, 9, 8)
    assert snake.fused(x, layer.alpha, layer.alpha, 0) is None, "with a gradient"
    layer(x).sum().backward()
    assert layer.alpha.grad.abs().max() > 0
    with torch.no_grad():
        assert snake.fused(x.double(), layer.alpha.double(), layer.alpha.double(), 0) is None
        monkeypatch.setattr(snake, "_function", lambda: None)
        usual = layer(x, 3)
        assert usual.shape == (1, 12, 8) and (usual[:, 3:] - exact(x, layer)).abs().max() < 1e-6
