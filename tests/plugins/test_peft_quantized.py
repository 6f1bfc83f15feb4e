"""A base in few bits: the published numbers, gradients through it, and the memory it takes."""

import copy
from statistics import NormalDist

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wishbone.core.system.loading import load_tensors
from wishbone.core.weights.tensor_files import read_tensors, write_tensors
from wishbone.plugins.peft.quantized import (
    BLOCK,
    LEVELS,
    QuantizedLinear,
    dequantize_nf4,
    quantize_nf4,
)

KINDS = ("bfloat16", "int8", "nf4")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def linear(rows=24, columns=40, bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(rows, columns, bias=bias).requires_grad_(False)


def kept_bytes(layer):
    return sum(b.numel() * b.element_size() for b in layer.buffers())


def test_the_levels_are_quantiles_of_a_normal_distribution():
    """QLoRA, section 3: seven steps below zero and eight above, over one tail on each side."""
    tail = 1 - (1 / 32 + 1 / 30) / 2
    above = [NormalDist().inv_cdf(0.5 + (tail - 0.5) * i / 8) for i in range(9)]
    below = [-NormalDist().inv_cdf(0.5 + (tail - 0.5) * i / 7) for i in range(7, 0, -1)]
    levels = [value / above[-1] for value in (*below, *above)]
    assert levels == pytest.approx(LEVELS, abs=2e-7)


def test_nf4_takes_the_nearest_level():
    torch.manual_seed(0)
    weight = torch.randn(10, 31)
    index, scale = quantize_nf4(weight)
    flat = F.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    assert torch.equal(scale, flat.abs().amax(1))
    error = (flat / scale[:, None])[..., None] - torch.tensor(LEVELS)
    nearest = error.abs().argmin(-1).flatten()[: weight.numel()].view_as(weight)
    assert torch.equal(index.long(), nearest)
    # the control: any other level is further away
    worse = (dequantize_nf4((index + 1).clamp(max=15), scale) - weight).norm()
    assert worse > 2 * (dequantize_nf4(index, scale) - weight).norm()


def test_nf4_is_that_of_bitsandbytes():
    functional = pytest.importorskip(
        "bitsandbytes.functional", reason="pip install bitsandbytes, for its own NF4 on the CPU"
    )
    torch.manual_seed(0)
    for shape in ((64, 128), (7, 33)):
        weight = torch.randn(shape) * torch.rand(shape).exp()
        packed, state = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
        expected = functional.dequantize_4bit(packed, state)
        index, scale = quantize_nf4(weight)
        assert torch.equal(scale, state.absmax.float())
        torch.testing.assert_close(dequantize_nf4(index, scale), expected, rtol=1e-6, atol=1e-7)


def test_the_error_is_that_of_so_many_bits(kind):
    layer = linear(256, 512)
    with torch.no_grad():
        layer.weight.normal_()
    packed = QuantizedLinear(layer, kind)
    error = ((packed.weight - layer.weight).norm() / layer.weight.norm()).item()
    # round to nearest: 2^-9 of a number; 1/127 of a row's largest; NF4's is QLoRA's own measure
    low, high = {"bfloat16": (5e-4, 4e-3), "int8": (3e-3, 2e-2), "nf4": (0.08, 0.11)}[kind]
    assert low < error < high


def test_it_computes_with_the_weight_it_shows(kind):
    packed = QuantizedLinear(linear(), kind)
    x = torch.randn(3, 5, 24)
    assert torch.equal(packed(x), F.linear(x, packed.weight) + packed.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(x).dtype == torch.bfloat16


def test_the_gradient_passes_through(kind):
    packed = QuantizedLinear(linear(), kind)
    x = torch.randn(4, 24, requires_grad=True)
    (packed(x) ** 2).sum().backward()
    y = x.detach().clone().requires_grad_()
    (F.linear(y, packed.weight, packed.bias) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert not [p for p in packed.parameters() if p.requires_grad]


def saved_numbers(call):
    """How many numbers autograd keeps of a call, of each tensor."""
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, id):
        call()
    return held


def test_the_way_back_holds_no_full_weight():
    """The weight is made again for it: a quantised base stays small in training, too."""
    packed = QuantizedLinear(linear(64, 256, bias=False), "nf4")
    x = torch.randn(2, 64, requires_grad=True)
    assert max(saved_numbers(lambda: packed(x)), default=0) <= x.numel()
    # the control: an ordinary product holds it
    assert max(saved_numbers(lambda: F.linear(x, packed.weight))) == 64 * 256


def test_memory_is_what_the_bits_say():
    sizes = {}
    for kind in KINDS:
        sizes[kind] = kept_bytes(QuantizedLinear(linear(256, 512, bias=False), kind))
    numbers = 256 * 512
    assert sizes == {
        "bfloat16": 2 * numbers,
        "int8": numbers + 4 * 512,
        "nf4": numbers // 2 + 4 * numbers // BLOCK,
    }


def test_files_hold_it_to_the_last_bit(kind, tmp_path):
    packed = QuantizedLinear(linear(31, 7), kind)
    write_tensors(tmp_path / "layer.safetensors", packed)
    again = QuantizedLinear(linear(31, 7, seed=1), kind)
    assert not torch.equal(again.weight, packed.weight)
    again.load_state_dict(read_tensors(tmp_path / "layer.safetensors"))
    assert torch.equal(again.weight, packed.weight) and torch.equal(again.bias, packed.bias)


def test_full_weights_are_quantised_when_loaded(kind):
    layer = linear(31, 7)
    again = QuantizedLinear(linear(31, 7, seed=1), kind)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.weight, QuantizedLinear(layer, kind).weight)


def test_codes_of_another_kind_are_refused():
    packed = QuantizedLinear(linear(), "nf4")
    with pytest.raises(RuntimeError, match="this layer keeps"):
        packed.load_state_dict(QuantizedLinear(linear(), "int8").state_dict())
    with pytest.raises(RuntimeError, match="Missing"):
        packed.load_state_dict({"bias": packed.bias})


def test_another_type_is_for_what_is_computed(kind):
    packed = QuantizedLinear(linear(), kind)
    half = copy.deepcopy(packed).to(torch.bfloat16)
    assert torch.equal(half.weight, packed.weight)
    assert half(torch.randn(2, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_an_adapted_base_in_few_bits(kind):
    """The base's numbers are kept in few bits, adapters learn on top, and a checkpoint holds it."""
    pytest.importorskip("peft", reason="pip install 'wishbone-tts[adapt]'")
    from peft_bases import adapted, answer, plain, vectors

    from wishbone.plugins.peft.backbone import PEFT

    base = plain("transformer")
    x = vectors(base)
    model = adapted(base, "transformer", base_weights=kind)
    full = adapted(base, "transformer")
    error = (answer(model, x) - answer(full, x)).norm() / answer(full, x).norm()
    assert 0 < error < {"bfloat16": 0.01, "int8": 0.03, "nf4": 0.3}[kind]
    assert torch.equal(answer(model.merged("base"), x), answer(model, x))

    model(x)[0].square().sum().backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora" in name and p.grad is not None for name, p in trained.items())
    numbers = sum(layer.in_features * layer.out_features for layer in model.layers.values())
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == sum(p.numel() for p in full.parameters()) - numbers
    assert parameters == PEFT.count_parameters(model.config)
    assert model.flops_per_position(10) == full.flops_per_position(10)

    again = PEFT(model.config).eval()
    load_tensors(again, {name: t.clone() for name, t in model.state_dict().items()})
    assert torch.equal(answer(again, x), answer(model, x))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError):
        QuantizedLinear(linear(), "int4")
