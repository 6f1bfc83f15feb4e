"""The kernels of one decoding position of RWKV-7 on Triton's CPU interpreter, against PyTorch.

Run by ``test_step_kernels.py`` in a process of its own with ``TRITON_INTERPRET=1``.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run this file", allow_module_level=True)

import torch

from wishbone.core.model.cuda_graph import Replay
from wishbone.core.testing import trained_looking_
from wishbone.kernels.wkv7 import step, triton_step
from wishbone.kernels.wkv7.reference import wkv7_reference
from wishbone.plugins.rwkv7.backbone import RWKV7
from wishbone.plugins.rwkv7.engines.cuda_graph import StaticRWKV7

POISON = 1e30
"""Memory behind a tensor holds this; who reads or writes there is seen."""


def make(*shape, scale=1.0, dtype=torch.float32):
    return (torch.randn(shape) * scale).to(dtype)


def guarded(tensor):
    """The same numbers with poison around them."""
    around = torch.full((tensor.numel() + 128,), POISON, dtype=tensor.dtype, device=tensor.device)
    inside = around[64:-64].view(tensor.shape)
    inside.copy_(tensor)
    return inside, around


def untouched(around):
    # bfloat16 rounds the poison
    poison = torch.tensor(POISON).to(around.dtype).to(around.device)
    return bool((around[:64] == poison).all() and (around[-64:] == poison).all())


def error(ours, peer):
    ours, peer = ours.double(), peer.double()
    assert torch.isfinite(ours).all()
    return float((ours - peer).square().mean().sqrt() / peer.square().mean().sqrt())


def both(name, arguments, changed, limit, **options):
    """Run the reference and the kernel; compare what they return and what they change in place."""
    results = []
    for module in (step, triton_step):
        inside, around = zip(*(map(guarded, (a.clone() for a in arguments.values()))), strict=True)
        values = dict(zip(arguments, inside, strict=True))
        out = getattr(module, name)(**values, **options)
        out = out if isinstance(out, tuple) else () if out is None else (out,)
        assert all(map(untouched, around))
        for key, value in values.items():
            assert key in changed or torch.equal(value, arguments[key]), f"{key} was changed"
        results.append([*out, *(values[key] for key in changed)])
    errors = [error(ours, peer) for peer, ours in zip(*results, strict=True)]
    assert max(errors) <= limit, errors
    return results[0]


@pytest.mark.parametrize("add", [False, True])
def test_norm_and_mix(add):
    arguments = {"x": make(3, 48), "shift": make(3, 48), "norm": make(2, 48), "mix": make(7, 48)}
    if add:
        arguments["branch"] = make(3, 48)
        both("norm_mix", arguments, ["x", "shift"], 1e-6, eps=1e-5, dtype=torch.float32)
    else:
        options = {"branch": None, "eps": 1e-5, "dtype": torch.float32}
        both("norm_mix", arguments, ["shift"], 1e-6, **options)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mixes", [1, 7])
def test_norm_mix_and_product(batch, mixes):
    width, outputs = 48, 3 * 48 + 4 * 32 if mixes == 7 else 112
    arguments = {
        "x": make(batch, width),
        "shift": make(batch, width),
        "norm": make(2, width),
        "mix": make(mixes, width),
        "weight": make(outputs, width, scale=0.2),
    }
    options = {"eps": 1e-5, "rows": width, "squared_relu": mixes == 1}
    both("mixed_product", arguments, [], 1e-6, **options)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shift", [False, True])
def test_product_and_residual(batch, shift):
    arguments = {"y": make(batch, 1100), "weight": make(48, 1100), "x": make(batch, 48)}
    changed = ["x"]
    if shift:
        arguments |= {"h": make(batch, 48), "shift": make(batch, 48)}
        changed.append("shift")
    both("product_add", arguments, changed, 1e-6)


def recurrence(batch, heads, size, rank=0, state_dtype=torch.float32):
    width = heads * size
    arguments = {
        "rkv": make(3, batch, width, scale=0.5),
        "low": make(4, batch, rank or width),
        "vectors": make(8, width, scale=0.5),
        "first": make(batch, width),
        "state": make(batch, heads, size, size, scale=0.2, dtype=state_dtype),
    }
    if rank:
        arguments["up"] = make(4, width, rank, scale=0.3)
    return arguments


@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("size", [16, 64])
def test_recurrence(size, leading):
    changed = ["state", "first"] if leading else ["state"]
    both("recur", recurrence(2, 2, size), changed, 1e-6, eps=64e-5, leading=leading)


@pytest.mark.parametrize("leading", [False, True])
def test_recurrence_with_the_low_rank_products_and_the_shift(leading):
    arguments = recurrence(2, 3, 16, rank=48) | {"h": make(2, 48), "shift": make(2, 48)}
    changed = ["state", "shift", *(["first"] if leading else [])]
    both("recur", arguments, changed, 1e-6, eps=64e-5, leading=leading)


def test_projections_may_lie_in_one_row():
    """The small form hands over views of [B, 3 D + 4 R]."""
    inputs = recurrence(3, 2, 16, rank=32)
    complete = torch.cat([*inputs["rkv"], *inputs["low"]], dim=-1)
    lying = {
        "rkv": complete[:, : 3 * 32].view(3, 3, 32).transpose(0, 1),
        "low": complete[:, 3 * 32 :].view(3, 4, 32).transpose(0, 1),
    }
    states = inputs.pop("state")
    one, other = states.clone(), states.clone()
    expected = step.recur(**inputs, state=one, eps=64e-5, leading=False)
    y = triton_step.recur(**(inputs | lying), state=other, eps=64e-5, leading=False)
    assert error(y, expected) < 1e-6 and error(other, one) < 1e-6


def test_squeezes():
    both("squeeze_low", {"low": make(4, 3, 32)}, ["low"], 1e-6)
    both("squared_relu", {"x": make(3, 112)}, ["x"], 1e-6)


def test_the_recurrence_is_wkv7():
    """With nothing around it: no decay bias, no head norm, the gate fully open."""
    batch, heads, size = 2, 2, 16
    inputs = recurrence(batch, heads, size)
    inputs["vectors"] = torch.zeros_like(inputs["vectors"])
    inputs["vectors"][[step.K_K, step.NORM_WEIGHT]] = 1
    inputs["low"][3] = 1
    state = inputs["state"].clone()
    y = step.recur(**inputs, eps=0.0, leading=True)
    r, k, v, w, a = (
        t.view(batch, 1, heads, size) for t in (*inputs["rkv"], *inputs["low"][:2].sigmoid())
    )
    direction = torch.nn.functional.normalize(k, dim=-1)
    expected, after = wkv7_reference(r, -step.DECAY * w, k, v, -direction, direction * a, state)
    expected = torch.nn.functional.layer_norm(expected, expected.shape[-1:], eps=0.0)
    assert error(inputs["state"], after) < 1e-6
    assert error(y, expected.flatten(1)) < 1e-6


def test_a_state_in_bfloat16_is_rounded_once_a_step():
    """Each rounding costs 2^-9 of a number at most; the interpreter cuts, which costs 2^-8."""
    inputs = recurrence(1, 2, 16, state_dtype=torch.bfloat16)
    exact = inputs["state"].float()
    options = {"eps": 64e-5, "leading": True}
    y = step.recur(**(inputs | {"state": exact}), **options)
    for module, most in ((step, 2**-8), (triton_step, 2**-7)):
        state = inputs["state"].clone()
        ours = module.recur(**(inputs | {"state": state}), **options)
        assert torch.allclose(ours, y, rtol=1e-5, atol=1e-5)
        assert 2**-11 < error(state, exact) < most
        assert (state.float() - exact).abs().le(most * exact.abs() + 1e-9).all()


@pytest.mark.parametrize("operation", ["mixed_product", "product_add"])
def test_matrices_in_bfloat16(operation):
    if operation == "mixed_product":
        arguments = {
            "x": make(1, 48),
            "shift": make(1, 48),
            "norm": make(2, 48),
            "mix": make(1, 48),
            "weight": make(64, 48, dtype=torch.bfloat16),
        }
        both(operation, arguments, [], 2e-2, eps=1e-5, rows=48)
    else:
        arguments = {
            "y": make(2, 96, dtype=torch.bfloat16),
            "weight": make(48, 96, dtype=torch.bfloat16),
            "x": make(2, 48),
        }
        both(operation, arguments, ["x"], 1e-2)


def test_the_comparison_sees_a_wrong_kernel(monkeypatch):
    """Negative controls: a kernel that forgets the state's decay, and one that writes too far."""
    arguments = recurrence(1, 1, 16)
    plain = triton_step.recur

    def slower(rkv, low, **remaining):
        return plain(rkv, low * torch.tensor([1.05, 1, 1, 1]).view(4, 1, 1), **remaining)

    monkeypatch.setattr(triton_step, "recur", slower)
    with pytest.raises(AssertionError):
        both("recur", arguments, ["state", "first"], 1e-6, eps=64e-5, leading=True)

    def beyond(x):
        x.view(-1).as_strided((x.numel() + 1,), (1,)).zero_()

    monkeypatch.setattr(triton_step, "squared_relu", beyond)
    with pytest.raises(AssertionError):
        both("squared_relu", {"x": make(2, 16)}, ["x"], 10.0)


@pytest.mark.parametrize("batch", [2, 5])
@torch.no_grad()
def test_a_whole_step_of_the_backbone(batch):
    """In the form of five kernels a block, and in that of eleven."""
    torch.manual_seed(0)
    backbone = trained_looking_(RWKV7(RWKV7.small_config()), 0).eval()
    x = torch.randn(batch, 4, backbone.width)
    _, ours = backbone(x[:, :3])
    peer = dict(ours)
    expected = backbone.step_(x[:, 3:], peer)
    replay = Replay(StaticRWKV7(backbone, kernels=triton_step), record=False)
    assert error(replay.step_(x[:, 3:], ours), expected) < 2e-6
    assert all(error(ours[name], peer[name]) < 1e-5 for name in peer)
