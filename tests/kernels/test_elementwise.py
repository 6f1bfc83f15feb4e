"""The work around WKV-7: formulas against autograd, kernels without a GPU."""

import pytest
import torch
from interpreted import interpret

from wishbone.kernels.elementwise import available, finish, mix, prepare, squared_relu


def test_interpreted():
    pytest.importorskip("triton", reason="install triton, which PyTorch for Linux brings along")
    interpret("interpreted_elementwise.py")


def test_a_carry_is_the_vector_before_the_first():
    h, carry, rows = torch.randn(2, 4, 6), torch.randn(2, 6), torch.rand(3, 6)
    before = torch.cat([carry[:, None], h[:, :-1]], 1)
    short = mix(h, carry, rows, torch.float32)
    for ours, long, row in zip(short, mix(h, before, rows, torch.float32), rows, strict=True):
        assert torch.equal(ours, long)
        assert torch.allclose(ours, h * (1 - row) + before * row, atol=1e-6)


def test_prepare_keeps_directions_at_length_one_and_decays_in_range():
    random = torch.Generator().manual_seed(0)
    k, low_w, low_a = (4 * torch.randn(2, 3, 8, generator=random) for _ in range(3))
    vectors = [torch.randn(8, generator=random) for _ in range(4)]
    g, key, removing, adding = prepare(k, low_w, low_a, *vectors, 2, torch.float32)
    assert (g < 0).all() and (g > -0.60654).all()
    assert torch.allclose(removing.norm(dim=-1), torch.ones(2, 3, 2), atol=1e-5)
    rate = torch.sigmoid(low_a + vectors[1]).unflatten(-1, (2, 4))
    assert torch.allclose(adding, -removing * rate, atol=1e-6)
    assert key.shape == (2, 3, 2, 4)


def test_finish_without_bonus_is_group_norm_and_gate():
    random = torch.Generator().manual_seed(0)
    y, key = (torch.randn(2, 3, 2, 4, generator=random) for _ in range(2))
    r, v, gate = (torch.randn(2, 3, 8, generator=random) for _ in range(3))
    weight, bias = (torch.randn(8, generator=random) for _ in range(2))
    out = finish(y, r, key, v, gate, torch.zeros(2, 4), weight, bias, 1e-5)
    rows = torch.nn.functional.group_norm(y.reshape(6, 8), 2, weight, bias, 1e-5)
    assert torch.allclose(out, rows.view(2, 3, 8) * gate, atol=1e-5)


def test_squared_relu():
    assert squared_relu(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


def test_every_form_says_whether_it_runs_here():
    assert available()["reference"] == ""
    assert torch.cuda.is_available() or available()["triton"] == "no CUDA device"
