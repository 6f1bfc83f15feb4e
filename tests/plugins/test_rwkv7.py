"""RWKV-7 beyond the contract: the official start, optimiser groups, the written-out backward."""

import math
from types import SimpleNamespace

import pytest
import torch

from wishbone.core.contract.backbone import require_caps
from wishbone.core.contract.errors import ConfigError
from wishbone.core.testing import trained_looking_
from wishbone.kernels.wkv7 import chunked
from wishbone.plugins.rwkv7 import layers
from wishbone.plugins.rwkv7.attention import attend
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.rwkv7.engines.fused_backward import Vectors, attend_fused
from wishbone.plugins.rwkv7.layers import rank


def model(seed=0, **changes):
    torch.manual_seed(seed)
    config = RWKV7.small_config()
    for name, value in changes.items():
        setattr(config, name, value)
    return RWKV7(config)


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [2, 37, 64])
def test_the_written_out_backward_is_that_of_the_formula(monkeypatch, length, padded):
    batch, heads, size = 3, 2, 8
    random = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()

    width = heads * size
    projected = [draw(batch, length, width) for _ in range(6)]
    vectors = [draw(width) for _ in range(7)]
    vectors[4] = draw(heads, size)
    state = draw(batch, heads, size, size)
    mask = torch.rand(batch, length, generator=random) > 0.3 if padded else None
    # Two slices, so that sums over slices are part of it.
    monkeypatch.setattr(chunked, "SLICE", 2 * length * width)
    weights = torch.randn(batch, length, width, generator=random, dtype=torch.float64)
    if mask is not None:
        weights = weights * mask[..., None]
    results = []
    for form in (attend_fused, attend):
        y, after = form(tuple(projected), Vectors(*vectors), state, mask, 64e-5)
        y = y if mask is None else y * mask[..., None]
        inputs = [*projected, *vectors, state]
        grads = torch.autograd.grad((y, after), inputs, (weights, torch.ones_like(after)))
        results.append((y, after, *grads))
    names = ["y", "after", "r", "k", "v", "low_w", "low_a", "gate", *Vectors._fields, "state"]
    for name, actual, expected in zip(names, *results, strict=True):
        assert relative(actual, expected) < 1e-12, name


def test_autocast_trains_close_to_float32():
    backbone = trained_looking_(model(width=64, head_size=32), 1)
    x = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(2))
    mask = torch.arange(40) < torch.tensor([[40], [23]])
    grads = []
    for enabled in (False, True):
        backbone.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y, state = backbone(x, mask=mask)
        (y * mask[..., None]).square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in backbone.named_parameters()})
        assert state["blocks.0.wkv"].dtype == torch.float32
    for name, expected in grads[0].items():
        assert relative(grads[1][name], expected) < 0.1, name


def test_one_position_under_autocast_remembers_in_float32():
    """The type of the memory decides, not that of the projections, whose digits are few."""
    random = torch.Generator().manual_seed(6)
    projected = [torch.randn(2, 1, 32, generator=random).bfloat16() for _ in range(6)]
    vectors = [torch.randn(32, generator=random) for _ in range(7)]
    vectors[4] = torch.randn(2, 16, generator=random)
    state = torch.randn(2, 2, 16, 16, generator=random)
    y, after = attend(tuple(projected), Vectors(*vectors), state, None, 64e-5)
    wide = tuple(part.float() for part in projected)
    expected_y, expected = attend(wide, Vectors(*vectors), state, None, 64e-5)
    assert (y.dtype, after.dtype) == (torch.bfloat16, torch.float32)
    assert relative(after, expected) < 1e-6 and relative(y, expected_y) < 1e-2


@pytest.mark.parametrize("width", [64, 192])
def test_the_official_start(width):
    layers, size = 3, 32
    backbone = model(width=width, layers=layers, head_size=size, ffn_width=0)
    for i, block in enumerate(backbone.blocks):
        time, n = block.time_mix, torch.arange(width)
        height = 1 - i / layers
        for row, power in zip(time.mix, (0.2, 0.9, 0.7, 0.7, 0.9, 0.2), strict=True):
            assert torch.allclose(row, 1 - (n / width) ** (power * height), atol=1e-6)
        assert torch.allclose(block.channel_mix.mix[0], 1 - (n / width) ** height**4, atol=1e-6)
        middle = ((n % size) - (size - 1) / 2) / ((size - 1) / 2)
        bend = 1 + (i / (layers - 1)) ** 0.3
        decay = -6 + 6 * (n / (width - 1)) ** bend + 0.5 + 2.5 * middle * middle.abs()
        assert torch.allclose(time.w0, decay, atol=1e-5)
        for zero in (time.w1, time.a1, time.g1, time.output.weight, block.channel_mix.value.weight):
            assert not zero.any()
        for matrix, gain in ((time.receptance, 1.0), (time.key, 0.1), (time.value, 1.0)):
            product = matrix.weight @ matrix.weight.T
            assert torch.allclose(product, gain**2 * torch.eye(width), atol=1e-5)
        gram = block.channel_mix.key.weight.T @ block.channel_mix.key.weight
        assert torch.allclose(gram, torch.eye(width), atol=1e-5)
        up = time.w2 @ time.w2.T
        assert torch.allclose(up, 0.01 * torch.eye(len(up)), atol=1e-6)
        assert torch.allclose(time.ln_x.weight, torch.tensor(((1 + i) / layers) ** 0.7))
        assert (time.r_k == -0.04).all() and torch.allclose(time.k_a, torch.tensor(1.02))
        assert hasattr(time, "v0") == (i > 0)
    middle = backbone.blocks[1].time_mix
    line = torch.arange(width) / (width - 1) - 0.5
    assert torch.allclose(middle.v0, 0.73 - 0.4 * line, atol=1e-6)
    assert torch.allclose(middle.k_k, 0.71 - 0.1 * line, atol=1e-6)


def test_one_block_starts_too():
    y, _ = model(layers=1)(torch.randn(1, 5, 48))
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("width", "decay", "value", "gate"),
    [(512, 64, 32, 128), (768, 64, 32, 128), (1024, 64, 64, 160), (2048, 128, 64, 224),
     (2560, 128, 96, 256), (4096, 160, 96, 320)],
)  # fmt: skip
def test_ranks_follow_the_official_rule(width, decay, value, gate):
    assert (rank(2.5, width), rank(1.7, width), rank(5.0, width)) == (decay, value, gate)


@pytest.mark.parametrize("changes", [{}, {"layers": 1}, {"value_rank": 5, "gate_rank": 7}])
def test_the_formula_counts_what_is_there(changes):
    backbone = model(**changes)
    count = sum(p.numel() for p in backbone.parameters())
    assert RWKV7.count_parameters(backbone.config) == count


def test_the_inner_width_is_what_the_configuration_says():
    for ffn_width, inner in ((112, 112), (0, 4 * 48)):
        blocks = model(ffn_width=ffn_width).blocks
        assert {tuple(block.channel_mix.key.weight.shape) for block in blocks} == {(inner, 48)}


def test_a_published_size():
    """The 0.1B World model without its two tables, ranks as released, block 0 without v*."""
    config = RWKV7.Config(width=768, layers=12)
    width, ranks = 768, 64 + 64 + 128
    block = 18 * width + 12 * width**2 + 2 * width * ranks
    value = width + 2 * width * 32
    assert RWKV7.count_parameters(config) == 4 * width + 12 * block + 11 * value


def test_every_parameter_is_in_one_group():
    backbone = model()
    groups = backbone.parameter_groups(1e-3, 0.1)
    of = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(of)
    for name, parameter in backbone.named_parameters():
        group = of[id(parameter)]
        matrix = name.endswith(".weight") and parameter.ndim == 2
        assert group["weight_decay"] == (0.1 if matrix else 0.0), name
        assert math.isclose(group["lr"], 2e-3 if name.endswith(".w0") else 1e-3), name


def test_bytes_are_those_of_the_state():
    backbone = model()
    for dtype in (torch.float32, torch.bfloat16):
        state = backbone.init_state(1, dtype=dtype)
        count = sum(t.numel() * t.itemsize for t in state.values())
        assert backbone.state_bytes(1, dtype=dtype) == backbone.state_bytes(9000, dtype=dtype)
        assert count == backbone.state_bytes(1, dtype=dtype)


def test_a_step_leaves_copies_of_the_dictionary_alone():
    backbone = trained_looking_(model(), 3)
    state = backbone.init_state(2)
    backbone.step_(torch.randn(2, 1, 48), state)
    fork = dict(state)
    saved = {name: tensor.clone() for name, tensor in state.items()}
    backbone.step_(torch.randn(2, 1, 48), state)
    assert all(torch.equal(fork[name], saved[name]) for name in saved)


def test_dropout_is_for_training_only():
    backbone = trained_looking_(model(dropout=0.5), 4)
    x = torch.randn(1, 6, 48)
    assert not torch.equal(backbone(x)[0], backbone(x)[0])
    backbone.eval()
    assert torch.equal(backbone(x)[0], backbone(x)[0])


def test_nothing_in_the_padding_gets_out():
    backbone = trained_looking_(model(), 5)
    x = torch.randn(2, 9, 48)
    mask = torch.tensor([[False] * 4 + [True] * 5, [True] * 6 + [False] * 3])
    expected = backbone(x.masked_fill(~mask[..., None], 0), mask=mask)
    actual = backbone(x.masked_fill(~mask[..., None], math.nan), mask=mask)
    assert torch.equal(actual[0][mask], expected[0][mask])
    assert all(torch.equal(actual[1][name], expected[1][name]) for name in expected[1])


def test_it_promises_what_streams_guidance_and_segments_ask_for():
    for promises in (("streaming", "constant_state"), ("varlen",)):
        require_caps(model(layers=1), "a feature", *promises)
    assert set(RWKV7.caps.peft_targets) == {"receptance", "key", "value", "output"}


def test_heads_must_fill_the_width():
    with pytest.raises(ConfigError, match="Width 100 is not a multiple of head size 64"):
        RWKV7(RWKV7.Config(width=100))


@pytest.mark.parametrize(
    ("is_cuda", "missing", "form"),
    [
        (True, "", "WKV-7 in Triton kernels"),
        (True, "no triton", "WKV-7 in chunks, PyTorch (no triton)"),
        (False, "", "WKV-7 in chunks, PyTorch (not on the GPU)"),
    ],
)
def test_the_form_of_the_training_names_what_is_missing(monkeypatch, is_cuda, missing, form):
    monkeypatch.setattr(layers, "triton_missing", lambda: missing)
    half = SimpleNamespace(w0=SimpleNamespace(is_cuda=is_cuda))
    assert layers.TimeMix.training_form(half) == form


def test_it_says_how_it_trains():
    text = RWKV7(RWKV7.small_config()).training_form()
    assert "in chunks" in text and ("CUDA" in text or "GPU" in text or "triton" in text)
