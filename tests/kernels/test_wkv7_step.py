"""One position of RWKV-7 in five operations, piece by piece, against sums written out here."""

import math
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from wishbone.kernels.wkv7 import chunked, rows, step
from wishbone.kernels.wkv7.packed import packed
from wishbone.kernels.wkv7.rows import Rows

RANDOM = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, generator=RANDOM, dtype=torch.float64)


def normed(x, norm, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * norm[0] + norm[1]


@pytest.mark.parametrize("branch", [False, True])
def test_a_branch_is_added_and_what_is_mixed_is_normed(branch):
    x, shift, norm, mix = draw(3, 8), draw(3, 8), draw(2, 8), draw(6, 8)
    added = draw(3, 8) if branch else None
    expected_x = x + added if branch else x.clone()
    h, before = normed(expected_x, norm, 0.1), shift.clone()
    mixed = step.norm_mix(x, added, shift, norm, 0.1, mix, torch.float32)
    assert mixed.dtype == torch.float32 and mixed.shape == (6, 3, 8)
    assert torch.allclose(x, expected_x) and torch.allclose(shift, h)
    for row in range(6):
        expected = h + (before - h) * mix[row]
        assert torch.allclose(mixed[row], expected.float(), atol=1e-6)


@pytest.mark.parametrize("mixes", [1, 6])
@pytest.mark.parametrize("squared", [False, True])
def test_a_product_of_what_is_mixed_leaves_its_inputs(mixes, squared):
    x, shift, norm, mix = draw(2, 8), draw(2, 8), draw(2, 8), draw(mixes, 8)
    outputs = [5] if mixes == 1 else [4, 4, 4, 3, 3, 3]
    weight = draw(sum(outputs), 8)
    saved = x.clone(), shift.clone()
    out, h = step.mixed_product(x, shift, norm, 0.1, mix, weight, 4, squared)
    assert torch.equal(x, saved[0]) and torch.equal(shift, saved[1])
    expected = normed(x, norm, 0.1)
    assert torch.allclose(h, expected)
    parts = [
        (expected + (shift - expected) * mix[row]) @ part.T
        for row, part in enumerate(weight.split(outputs))
    ]
    wanted = torch.cat(parts, -1)
    assert torch.allclose(out, wanted.clamp(min=0).square() if squared else wanted)
    plain, _ = step.mixed_product(x, shift, norm, 0.1, mix, weight, 4)
    assert torch.allclose(plain, wanted)


def test_rows_of_a_weight_belong_to_the_mixes_in_order():
    weight = torch.arange(18.0)[:, None]
    parts = step.split(weight, 6, 4)
    assert [part.flatten().tolist() for part in parts] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13], [14, 15], [16, 17],
    ]  # fmt: skip
    assert step.split(weight, 1, 4)[0] is weight


def test_a_product_is_added_in_place():
    y, weight, x, h, shift = draw(2, 3), draw(4, 3), draw(2, 4), draw(2, 4), draw(2, 4)
    expected, before = x + y @ weight.T, shift.clone()
    for given in ((None, None), (h, None), (None, shift)):
        fresh = x.clone()
        step.product_add(y, weight, fresh, *given)
        assert torch.allclose(fresh, expected) and torch.equal(shift, before)
    step.product_add(y, weight, x, h, shift)
    assert torch.allclose(x, expected) and torch.equal(shift, h)


def test_what_lies_inside_low_ranks_and_channels():
    low = draw(4, 2, 3)
    expected = torch.stack([low[0].tanh(), low[1], low[2], 1 / (1 + (-low[3]).exp())])
    step.squeeze_low(low)
    assert torch.allclose(low, expected)
    x = torch.tensor([-2.0, 0.0, 3.0])
    step.squared_relu(x)
    assert x.tolist() == [0.0, 0.0, 9.0]


@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("shifts", [False, True])
def test_the_recurrence_is_that_of_the_equations(leading, up, shifts):
    batch, heads, size, ranks = 2, 3, 4, 5
    width = heads * size
    rkv, vectors = draw(3, batch, width).float(), draw(8, width).float()
    first, state = draw(batch, width).float(), draw(batch, heads, size, size).float()
    low, weights = draw(4, batch, width).float(), None
    if up:
        raw, weights = draw(4, batch, ranks).float(), draw(4, width, ranks).float()
        squeezed = torch.stack([raw[0].tanh(), raw[1], raw[2], raw[3].sigmoid()])
        low = torch.einsum("jbr,jdr->jbd", squeezed, weights)
    h, shift = (draw(batch, width), draw(batch, width)) if shifts else (None, None)
    w0, a0, v0, k_k, k_a, r_k, gain, bias = vectors.double()
    r, k, v = rkv.double()
    low = low.double()
    decay = (-math.exp(-0.5) * (low[0] + w0).sigmoid()).exp()
    rate = (low[1] + a0).sigmoid()
    expected_first = v if leading else first.clone()
    if not leading:
        v = v + (first.double() - v) * (low[2] + v0).sigmoid()
    heads_of = (batch, heads, size)
    removing = (k * k_k).view(heads_of)
    removing = removing / removing.norm(dim=-1, keepdim=True)
    key = (k * (1 + (rate - 1) * k_a)).view(heads_of)
    old, y = state.double(), torch.empty(batch, heads, size, dtype=torch.float64)
    new = torch.empty_like(old)
    for b in range(batch):
        for n in range(heads):
            part = slice(n * size, (n + 1) * size)
            s = old[b, n] * decay[b, part]
            s = s - torch.outer(old[b, n] @ removing[b, n], rate[b, part] * removing[b, n])
            new[b, n] = s + torch.outer(v[b, part], key[b, n])
            out = new[b, n] @ r[b, part]
            out = normed(out, (gain[part], bias[part]), 0.01)
            bonus = (r[b, part] * key[b, n] * r_k[part]).sum()
            y[b, n] = out + bonus * v[b, part]
    saved_low = raw.clone() if up else None
    given = (raw if up else low.float()), vectors, first, state, 0.01, leading, weights, h, shift
    found = step.recur(rkv, *given, dtype=torch.float64)
    assert found.dtype == torch.float64
    assert torch.allclose(found, y.flatten(1) * low[3], atol=1e-4)
    assert torch.allclose(state.double(), new, atol=1e-5)
    assert torch.allclose(first, expected_first.to(first.dtype), atol=1e-6)
    assert not up or torch.equal(raw, saved_low)  # replayed with the same memory
    assert not shifts or torch.equal(shift, h)
    # what is given out is float32 where nothing is said
    assert step.recur(rkv, *given).dtype == torch.float32


def test_a_shift_needs_both_to_move():
    width = 4
    for h, shift in ((None, draw(1, width)), (draw(1, width), None)):
        before = None if shift is None else shift.clone()
        step.recur(
            draw(3, 1, width).float(), draw(4, 1, width).float(), draw(8, width).float(),
            draw(1, width).float(), draw(1, 1, width, width).float(), 0.01, True, None, h, shift,
        )  # fmt: skip
        assert shift is None or torch.equal(shift, before)


def test_the_strongest_decay_is_the_papers():
    assert step.DECAY == pytest.approx(0.60653, abs=1e-5)
    vectors = torch.zeros(8, 2)
    vectors[0] = 1e9
    state = torch.ones(1, 1, 2, 2)
    step.recur(torch.zeros(3, 1, 2), torch.zeros(4, 1, 2), vectors, torch.zeros(1, 2), state,
               1.0, True)  # fmt: skip
    assert state.flatten().tolist() == pytest.approx([math.exp(-0.60653)] * 4, abs=1e-5)


@pytest.mark.parametrize(
    ("chunk", "length", "shorter"),
    [
        (64, 64, 64), (64, 33, 64), (64, 32, 32), (64, 17, 32), (64, 16, 16), (64, 5, 8),
        (64, 4, 4), (64, 1, 4), (64, 0, 4), (4, 1, 4), (8, 5, 8), (32, 1000, 32),
    ],
)  # fmt: skip
def test_a_chunk_is_no_longer_than_what_it_holds(chunk, length, shorter):
    assert chunked.shorter(chunk, length) == shorter


def test_the_batch_is_cut_into_what_the_cache_holds(monkeypatch):
    monkeypatch.setattr(chunked, "SLICE", 24)
    for batch, size, cuts in (
        (5, 12, [(0, 2), (2, 4), (4, 6)]), (3, 30, [(0, 1), (1, 2), (2, 3)]), (4, 6, [(0, 4)]),
        (2, 0, [(0, 24)]),
    ):  # fmt: skip
        found = chunked.slices(torch.zeros(batch, size))
        assert [(part.start, part.stop) for part in found] == cuts
    gpu = SimpleNamespace(is_cuda=True, __len__=None)
    kind = type("Gpu", (), {"is_cuda": True, "__len__": lambda self: 9, "__getitem__": None})
    assert gpu.is_cuda and chunked.slices(kind()) == [slice(0, 9)]


def test_float64_bears_eight_times_the_decay():
    g = torch.full((1, 4, 1, 2), -20.0)
    chunked.refuse_strong(g, 4, torch.float32)
    with pytest.raises(ValueError, match="down to -20.1; chunks of 4 positions .* from -20.0 on"):
        chunked.refuse_strong(g - 0.1, 4, torch.float32)
    chunked.refuse_strong(8 * g, 4, torch.float64)
    with pytest.raises(ValueError, match="from -160.0 on"):
        chunked.refuse_strong(8 * g - 0.1, 4, torch.float64)
    chunked.refuse_strong(torch.zeros(0), 4, torch.float32)


@pytest.mark.parametrize("length", [0, 3, 4, 9, 12])
def test_rows_go_in_and_out_and_are_filled_up_with_nothing(length):
    cut = Rows(batch=2, length=length, heads=3, chunk=4)
    assert (cut.lanes, cut.count, cut.total) == (6, -(-length // 4), 6 * -(-length // 4))
    x = draw(2, length, 3, 5)
    into = cut.new(x, 1, 5)
    assert into.shape == (cut.total, 4, 5) and cut.new(x, 2, 5).shape == (cut.total, 8, 5)
    into.fill_(7.0)
    cut.split(x, into)
    flat = into.view(cut.count, 2, 3, 4, 5)
    for t in range(4 * cut.count):
        expected = x[:, t] if t < length else torch.zeros(2, 3, 5, dtype=x.dtype)
        assert torch.equal(flat[t // 4, :, :, t % 4], expected)
    back = torch.full_like(x, 9.0)
    cut.join(into, back)
    assert torch.equal(back, x)
    with pytest.raises(FrozenInstanceError):
        cut.batch = 1


def test_packed_sequences_begin_without_a_state_where_none_is_given():
    asked = []

    def form(x, y, before):
        asked.append(before)
        return x + y, torch.full((1, 1), float(x.shape[1]))

    x = torch.arange(5.0)[None, :, None, None]
    y, after = packed(form, (x, x), None, torch.tensor([0, 2, 5]))
    assert asked == [None, None] and torch.equal(y, 2 * x)
    assert after.flatten().tolist() == [2.0, 3.0]
    state = torch.tensor([[1.0], [2.0]])
    packed(form, (x, x), state, torch.tensor([0, 2, 5]))
    assert [each.tolist() for each in asked[2:]] == [[[1.0]], [[2.0]]]


def test_running_sums_and_what_is_read_before_it_is_written():
    ones = rows._ones(torch.zeros(2, 3, 5))
    assert ones.tolist() == [[[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]] * 2
    scores = rows._masked(torch.ones(1, 4, 4))
    assert scores[0].tolist() == [
        [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0],
    ]  # fmt: skip
    assert F.relu(scores).equal(scores)
