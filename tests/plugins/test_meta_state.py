"""Meta-State: its equations in numpy, what publishing costs nobody else, and growth."""

import numpy as np
import pytest
import torch
from torch import nn

from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.stack.mixer import Call, Place
from wishbone.core.registry.loader import registry
from wishbone.plugins.matrix_memory import WKV
from wishbone.plugins.meta_state.ffn import MetaState, grown
from wishbone.plugins.rwkv7.layers import TimeMix

WIDTH, SIZE, LENGTH = 48, 16, 23
HEADS = WIDTH // SIZE
STACK = registry().get("backbone", "stack")


def moved(module):
    """The module with every parameter far from its first value, in float64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double().eval()


def halves(**fields):
    torch.manual_seed(0)
    place = Place(WIDTH, 1, 3, demand=(WKV,))
    mixer = moved(TimeMix(TimeMix.Config(head_size=SIZE), place))
    return mixer, moved(MetaState(MetaState.Config(head_size=SIZE, **fields), place))


def started(mixer, half, batch=2):
    """A call of both from states that are not the first ones."""
    x = torch.randn(batch, LENGTH, WIDTH, dtype=torch.float64)
    first = mixer.init_state(batch, x.device, x.dtype)
    first["wkv"] = 0.3 * torch.randn_like(first["wkv"])
    meta = half.init_state(batch, x.device, x.dtype)
    meta["meta"] = 0.3 * torch.randn_like(meta["meta"])
    call = Call()
    mixer(x, first, call)
    return x, first, meta, call


def rms(x, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def by_hand(half, x, meta, memory, late=False):
    """Row 0 by the equations, one position and one head after another.

    ``late`` reads S before the position is written, which is wrong.
    """
    g, k, v, a, b = (z[0].numpy() for z in memory[1:6])  # [T, H, N]
    s, eps = memory.before[0].numpy().copy(), half.config.norm_eps
    m = meta["meta"][0].numpy().copy()
    turns = [np.stack([np.eye(SIZE)] * HEADS), *(turn.detach().numpy() for turn in half.turns)]
    outputs = [output.weight.detach().numpy() for output in half.outputs]
    answers = []
    for t in range(len(x)):
        total = np.zeros(WIDTH)
        old = s.copy()
        for h in range(HEADS):
            s[h] = s[h] * np.exp(g[t, h]) + np.outer(s[h] @ a[t, h], b[t, h])
            s[h] = s[h] + np.outer(v[t, h], k[t, h])
        read = old if late else s
        for c, (turn, output) in enumerate(zip(turns, outputs, strict=True)):
            parts = []
            for h in range(HEADS):
                q = x[t].reshape(HEADS, SIZE)[h] @ turn[h]
                z = read[h] @ q
                z = rms(z, eps) if half.config.norms else z
                i = c * HEADS + h
                m[i] = m[i] * np.exp(g[t, h]) + np.outer(m[i] @ a[t, h], b[t, h])
                m[i] = m[i] + np.outer(z, z)
                y = m[i] @ q
                parts.append(rms(y, eps) if half.config.norms else y)
            total = total + output @ np.concatenate(parts)
        answers.append(total)
    return np.stack(answers), m


@pytest.mark.parametrize("fields", [{}, {"copies": 3}, {"norms": False}], ids=str)
@torch.no_grad()
def test_it_is_the_equations(fields):
    mixer, half = halves(**fields)
    x, _, meta, call = started(mixer, half)
    y, after = half(x, meta, call)
    expected, memory = by_hand(half, x[0].numpy(), meta, call.shared[WKV])
    scale = np.sqrt((expected**2).mean())
    assert np.abs(y[0].numpy() - expected).max() < 1e-10 * scale
    assert np.abs(after["meta"][0].numpy() - memory).max() < 1e-10 * np.abs(memory).max()
    wrong, _ = by_hand(half, x[0].numpy(), meta, call.shared[WKV], late=True)
    assert np.abs(y[0].numpy() - wrong).max() > 1e-2 * scale  # negative control


@torch.no_grad()
def test_what_is_published_is_what_the_mixer_does():
    mixer, half = halves()
    x, first, _, call = started(mixer, half)
    memory = call.shared[WKV]
    state = memory.before
    for t in range(LENGTH):
        _, g, k, v, a, b = (z[:, t] for z in memory[:6])  # [B, H, N]
        removed = (state @ a[..., None]) * b[..., None, :]
        state = state * g.exp()[..., None, :] + removed + v[..., None] * k[..., None, :]
    assert (state - mixer(x, first, Call())[1]["wkv"]).abs().max() < 1e-11


def test_a_stack_without_a_reader_publishes_nothing(monkeypatch):
    called = []

    def counted(original):
        def run(self, x, state, call):
            answer = original(self, x, state, call)
            called.append(WKV in call.shared)
            return answer

        return run

    for name in ("step", "forward"):
        monkeypatch.setattr(TimeMix, name, counted(getattr(TimeMix, name)))
    mixer = {"name": "rwkv7", "head_size": SIZE}
    for ffn, published in (("swiglu", False), ({"name": "meta_state", "head_size": SIZE}, True)):
        called.clear()
        stack = STACK(STACK.Config(width=WIDTH, layers=2, mixer=mixer, ffn=ffn)).eval()
        stack.step_(torch.randn(1, 1, WIDTH), stack.init_state(1))
        stack(torch.randn(1, 5, WIDTH))
        assert set(called) == {published} and len(called) >= 4


@torch.no_grad()
def test_growing_keeps_the_function():
    mixer, half = halves()
    x, _, meta, call = started(mixer, half)
    larger = grown(half, 3)
    wider = {"meta": torch.cat([meta["meta"], torch.zeros(2, 2 * HEADS, SIZE, SIZE)], 1)}
    y, after = half(x, meta, call)
    y_larger, after_larger = larger(x, wider, call)
    assert (y_larger - y).abs().max() < 1e-13
    assert (after_larger["meta"][:, :HEADS] - after["meta"]).abs().max() < 1e-13
    for output in larger.outputs[1:]:
        nn.init.normal_(output.weight, std=0.1)  # negative control: outputs that are not zero
    assert (larger(x, wider, call)[0] - y).abs().max() > 1e-2


def test_what_is_new_learns_and_alone():
    mixer, half = halves()
    with torch.no_grad():
        x, _, _, call = started(mixer, half)
    larger = grown(half, 2)
    for name, parameter in larger.named_parameters():
        parameter.requires_grad_(name not in half.state_dict())
    first = larger.init_state(2, x.device, x.dtype)
    output, turn = larger.outputs[1].weight, larger.turns[0]
    larger(x, first, call)[0].square().sum().backward()
    assert output.grad.abs().min() > 0 and larger.outputs[0].weight.grad is None
    with torch.no_grad():
        output.sub_(0.01 * output.grad)
    larger(x, first, call)[0].square().sum().backward()
    assert turn.grad.abs().max() > 0


def test_heads_of_another_size_are_refused():
    mixer, ffn = {"name": "rwkv7", "head_size": 8}, {"name": "meta_state", "head_size": SIZE}
    stack = STACK(STACK.Config(width=WIDTH, layers=2, mixer=mixer, ffn=ffn))
    with pytest.raises(ConfigError, match="head_size: 8"):
        stack(torch.zeros(1, 3, WIDTH))


def test_a_mixer_that_offers_nothing_is_refused():
    with pytest.raises(ConfigError, match="reads 'wkv'"):
        STACK(STACK.Config(width=WIDTH, layers=2, mixer="mingru", ffn="meta_state"))
