"""The kernels of one decoding position of a Transformer on Triton's CPU interpreter.

Run by ``test_step_kernels.py`` in a process of its own with ``TRITON_INTERPRET=1``.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run this file", allow_module_level=True)

import torch

from wishbone.core.model.cuda_graph import Replay
from wishbone.core.testing import trained_looking_
from wishbone.kernels.attention import step, triton_step
from wishbone.plugins.transformer.backbone import Transformer
from wishbone.plugins.transformer.engines.cuda_graph import StaticTransformer

POISON = 1e30


def make(*shape, scale=1.0, dtype=torch.float32):
    return (torch.randn(shape) * scale).to(dtype)


def error(ours, reference):
    ours, reference = ours.double(), reference.double()
    assert torch.isfinite(ours).all()
    return float((ours - reference).square().mean().sqrt() / reference.square().mean().sqrt())


@pytest.mark.parametrize("add", [False, True])
def test_norm(add):
    x, branch, scale = make(3, 48), make(3, 48) if add else None, make(48)
    ours, reference = x.clone(), x.clone()
    y = triton_step.norm_add(ours, branch, scale, 1e-6, torch.float32)
    assert error(y, step.norm_add(reference, branch, scale, 1e-6, torch.float32)) < 1e-6
    assert torch.equal(ours, reference) and torch.equal(ours, x) != add


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("bias", "gated"), [(True, False), (False, False), (False, True)])
def test_norm_and_product(batch, bias, gated):
    arguments = make(batch, 48), make(48), 1e-6, make(112, 48), make(112) if bias else None, gated
    y = triton_step.norm_product(*arguments)
    assert y.shape == (batch, 56 if gated else 112)
    assert error(y, step.norm_product(*arguments)) < 1e-6


def test_gate():
    x = make(3, 2 * 90)
    assert error(triton_step.gate(x), step.gate(x)) < 1e-6


def setting(lengths, heads=4, groups=2, size=16, room=96, dtype=torch.float32):
    """Caches with poison where nothing may be read, and the arguments of ``attend``."""
    batch = len(lengths)
    length = torch.tensor(lengths)
    key, value = (make(batch, groups, room, size, dtype=dtype) for _ in range(2))
    for row, count in enumerate(lengths):
        key[row, :, count:], value[row, :, count:] = POISON, POISON
    angles = make(2, batch, size // 2)
    return [
        make(batch, (heads + 2 * groups) * size, dtype=dtype),
        key,
        value,
        length,
        (angles.cos()[0].contiguous(), angles.sin()[0].contiguous()),
    ]


def both(arguments, limit, dtype=torch.float32):
    """Outputs of the reference and the kernel, and their caches."""
    actual = []
    for module in (step, triton_step):
        qkv, key, value, length, angles = arguments
        key, value = key.clone(), value.clone()
        y = module.attend(qkv, key, value, length, angles, limit, dtype)
        actual.append((y, key, value))
    return zip(*actual, strict=True)


@pytest.mark.parametrize("lengths", [[0], [1, 63], [64, 5, 90]])
@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 1), (2, 2)])
def test_attention_to_rows_of_any_length(lengths, heads, groups):
    arguments = setting(lengths, heads, groups)
    (expected, y), keys, values = both(arguments, 96)
    assert error(y, expected) < 1e-6
    # poison and old numbers to the last bit; the new slot may round another way
    assert all(torch.allclose(*caches, rtol=1e-5, atol=1e-6) for caches in (keys, values))


@pytest.mark.parametrize("lengths", [[70], [3, 95]])
def test_pieces_are_joined(monkeypatch, lengths):
    monkeypatch.setattr(triton_step, "SPLIT", 64)
    (expected, y), _, _ = both(setting(lengths, size=32), 96)
    assert error(y, expected) < 1e-6


def test_a_row_without_room_writes_its_last_slot_and_nothing_beyond():
    arguments = setting([96, 200], room=96)
    for index in (1, 2):
        arguments[index].nan_to_num_()
    _, keys, _ = both(arguments, 96)
    before = arguments[1]
    for key in keys:
        assert torch.equal(key[:, :, :95], before[:, :, :95])
        assert not torch.equal(key[:, :, 95], before[:, :, 95])


def test_a_cache_in_bfloat16():
    (expected, y), keys, _ = both(setting([40, 7], dtype=torch.bfloat16), 64, torch.bfloat16)
    assert error(y, expected) < 0.02


def test_the_comparison_sees_a_slot_too_many():
    """Negative control: one slot of poison more, and nothing is right."""
    torch.manual_seed(1)  # by chance one time in 16 all four heads look away from the poison
    arguments = setting([9])
    (expected, _), _, _ = both(arguments, 96)
    arguments[3] = arguments[3] + 1
    y = triton_step.attend(*arguments[:1], *(a.clone() for a in arguments[1:3]), *arguments[3:],
                           96, torch.float32)  # fmt: skip
    assert not torch.allclose(y, expected, rtol=1e-2)


@pytest.mark.parametrize("batch", [2, 5])
@torch.no_grad()
def test_a_whole_step_of_the_backbone(batch):
    """In the form of six kernels a block, and in that of nine; rows of different lengths."""
    torch.manual_seed(0)
    backbone = trained_looking_(Transformer(Transformer.small_config()), 0).eval()
    x = torch.randn(batch, 5, backbone.width)
    mask = torch.arange(4) < torch.tensor([4, 1, 0, 3, 4])[:batch, None]
    _, ours = backbone(x[:, :4], mask=mask)
    reference = {name: part.clone() for name, part in ours.items()}
    expected = backbone.step_(x[:, 4:], reference)
    replay = Replay(StaticTransformer(backbone, kernels=triton_step), record=False)
    assert error(replay.step_(x[:, 4:], ours), expected) < 2e-6
    assert error(ours["blocks.1.key"][:, :, :5], reference["blocks.1.key"]) < 1e-5
