"""Scans of vectors, and causal convolutions, against a loop: values, gradients, states, ranges."""

import pytest
import torch
from torch.nn import functional as F

from wishbone.kernels import linear_scan as package
from wishbone.kernels.convolution import causal_convolution, causal_convolution_reference
from wishbone.kernels.linear_scan import (
    NEVER,
    linear_scan,
    linear_scan_reference,
    weighted_mean,
    weighted_mean_reference,
)

LENGTHS = [1, 2, 3, 16, 37]


def draw(*size, seed=0, dtype=torch.float64):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def factors(*size, seed=1):
    """Factors from 0 to 1, both ends among them."""
    return (
        torch.sigmoid(4 * draw(*size, seed=seed))
        .where(draw(*size, seed=9) < 1.2, 0.0)
        .round(decimals=2)
    )


def line(length=37, channels=(3, 5)):
    """a, b, start of a linear scan."""
    shape = (2, length, *channels)
    tensors = factors(*shape), draw(*shape, seed=2), draw(2, *channels, seed=3)
    return [x.requires_grad_() for x in tensors]


def mean(length=37, channels=5):
    """k, v, w, mean, log weight: decays from none to one that leaves nothing."""
    shape = (2, length, channels)
    w = torch.tensor([0.0, -1e-3, -1.0, -9.0, -60.0], dtype=torch.float64)
    tensors = (3 * draw(*shape), draw(*shape, seed=2), w, *draw(2, 2, channels, seed=3))
    return [x.requires_grad_() for x in tensors]


def gradients(outputs, inputs):
    weights = [draw(*x.shape, seed=i + 20).to(x.dtype) for i, x in enumerate(outputs)]
    return torch.autograd.grad(outputs, inputs, weights)


def same(actual, expected, most=1e-13):
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).norm() <= most * (1 + e.norm())


@pytest.mark.parametrize("length", LENGTHS)
def test_a_scan_in_rows_equals_the_loop(length):
    a, b, start = line(length)
    fast, slow = linear_scan(a, b, start), linear_scan_reference(a, b, start)
    same([fast], [slow])
    same(gradients([fast], [a, b, start]), gradients([slow], [a, b, start]))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_weighted_mean_in_rows_equals_the_loop(length):
    k, v, w, *start = inputs = mean(length)
    fast, slow = weighted_mean(k, v, w, start), weighted_mean_reference(k, v, w, start)
    same(fast, slow)
    same(gradients(fast, inputs), gradients(slow, inputs))


def test_the_mean_is_the_sum_of_its_definition():
    """From nothing, and without a fading weight: a softmax over what came so far."""
    k, v, *_ = mean()
    means, weights = weighted_mean(k, v)
    for t in (0, 5, 36):
        share = k[:, : t + 1].softmax(1)
        same(
            [means[:, t], weights[:, t]],
            [(share * v[:, : t + 1]).sum(1), k[:, : t + 1].logsumexp(1)],
        )


def test_gradients_are_those_of_small_differences():
    a, b, start = (x.detach().requires_grad_() for x in line(9, (2,)))
    inner = a.detach().clamp(0.1, 0.9).requires_grad_()
    assert torch.autograd.gradcheck(linear_scan, (inner, b, start))
    inputs = [x.detach()[..., :3].contiguous().requires_grad_() for x in mean(9)]
    assert torch.autograd.gradcheck(lambda k, v, w, *start: weighted_mean(k, v, w, start), inputs)


@pytest.mark.parametrize("first", [1, 17, 36])
def test_two_calls_equal_one(first):
    a, b, start = line()
    h = linear_scan(a, b, start)
    head = linear_scan(a[:, :first], b[:, :first], start)
    tail = linear_scan(a[:, first:], b[:, first:], head[:, -1])
    same([torch.cat([head, tail], 1)], [h])
    k, v, w, *start = mean()
    means, weights = weighted_mean(k, v, w, start)
    heads = weighted_mean(k[:, :first], v[:, :first], w, start)
    tails = weighted_mean(k[:, first:], v[:, first:], w, [x[:, -1] for x in heads])
    same([torch.cat(x, 1) for x in zip(heads, tails, strict=True)], [means, weights])


def test_what_follows_changes_no_bit_of_what_came_before():
    a, b, start = (x.detach() for x in line())
    k, v, w, *begin = (x.detach() for x in mean())
    for t in (1, 6, 7, 36):
        for inputs, form in (((a, b), lambda a, b: linear_scan(a, b, start)),
                             ((k, v), lambda k, v: weighted_mean(k, v, w, begin)[0])):  # fmt: skip
            changed = [x.clone() for x in inputs]
            for x in changed:
                x[:, t:] = 0.5
            assert torch.equal(form(*inputs)[:, :t], form(*changed)[:, :t])


def test_any_factor_is_exact_in_float32():
    """4 000 positions, factors of exactly 0 and 1 and a decay of e^-60 among them."""
    a, b, start = (x.detach() for x in line(4000, (5,)))
    a = torch.cat([a[..., :3], torch.ones_like(a[..., :1]), torch.full_like(a[..., :1], 1e-30)], -1)
    h = linear_scan(a.float(), b.float(), start.float())
    assert h.dtype == torch.float32
    same([h.double()], [linear_scan_reference(a.float().double(), b.float().double(), start)], 1e-6)
    k, v, w, *_ = (x.detach().float() for x in mean(4000))
    means, _ = weighted_mean(k, v, w)
    exact, _ = weighted_mean_reference(k.double(), v.double(), w.double())
    assert (means - exact).abs().max() < 3e-6


def test_nothing_before_is_a_weight_of_zero():
    k, v, w, *_ = (x.detach() for x in mean())
    means, weights = weighted_mean(k, v, w)
    assert torch.equal(means[:, 0], v[:, 0]) and torch.equal(weights[:, 0], k[:, 0])
    nothing = torch.full_like(k, NEVER)
    means, weights = weighted_mean(nothing, v)
    assert means.isfinite().all() and weights.isfinite().all()


@pytest.mark.parametrize("length", [1, 2, 4])
def test_inputs_stay_as_they_are(length):
    """One row of one sequence: folding it is no copy by itself."""
    a, b, start = (x.detach()[:1, :length].contiguous() for x in line())
    before = a.clone(), b.clone()
    linear_scan(a, b)
    weighted_mean(a, b, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_half_precision_goes_through_float32():
    a, b, start = (x.detach().bfloat16() for x in line())
    assert linear_scan(a, b, start).dtype == torch.float32
    k, v, *_ = (x.detach().bfloat16() for x in mean())
    assert weighted_mean(k, v)[0].dtype == torch.float32


def test_a_wrong_carry_is_seen(monkeypatch):
    """Negative control: rows that are handed the state of the row before them undecayed."""
    a, b, start = line()
    honest = package.rows.scan

    def careless(a, b, start):
        return honest(torch.ones_like(a), b, start)

    monkeypatch.setattr(package, "scan", careless)
    with pytest.raises(AssertionError):
        same([linear_scan(a, b, start)], [linear_scan_reference(a, b, start)])


def test_a_wrong_backward_is_seen(monkeypatch):
    """Negative control: a_t where a_{t+1} belongs."""
    a, b, start = line()

    def careless(a, dh):
        return package.rows.scan(a.flip(1), dh.flip(1), torch.zeros_like(a[:, 0])).flip(1)

    monkeypatch.setattr(package, "scan_back", careless)
    slow = gradients([linear_scan_reference(a, b, start)], [a, b, start])
    with pytest.raises(AssertionError):
        same(gradients([linear_scan(a, b, start)], [a, b, start]), slow)


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 3, 37])
@pytest.mark.parametrize("biased", [False, True])
def test_a_convolution_equals_the_loop_and_torch(width, length, biased):
    joined = draw(2, width - 1 + length, 6).requires_grad_()
    weight = draw(6, width, seed=1).requires_grad_()
    bias = draw(6, seed=2).requires_grad_() if biased else None
    inputs = [joined, weight, *([bias] if biased else [])]
    fast = causal_convolution(joined, weight, bias)
    slow = causal_convolution_reference(joined, weight, bias)
    torchs = F.conv1d(joined.mT, weight[:, None], bias, groups=6).mT
    same([fast, fast], [slow, torchs])
    same(gradients([fast], inputs), gradients([slow], inputs))


def test_a_convolution_continues_where_it_ended():
    joined, weight = draw(2, 23, 6), draw(6, 4, seed=1)
    y = causal_convolution(joined, weight)
    parts = [causal_convolution(joined[:, :8], weight), causal_convolution(joined[:, 5:], weight)]
    same([torch.cat(parts, 1)], [y])
    changed = joined.clone()
    changed[:, 12:] = 0.5
    assert torch.equal(causal_convolution(changed, weight)[:, :9], y[:, :9])
