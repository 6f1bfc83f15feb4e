"""WKV-7's Triton kernels on Triton's CPU interpreter, against the recurrence in float64.

Run by ``test_wkv7_triton.py`` in a process of its own with ``TRITON_INTERPRET=1``, because kernels
are interpreted or compiled from the moment they are imported.

The interpreter multiplies exactly and cuts where a GPU rounds to bfloat16: what it cannot show is
emulated in ``test_wkv7_triton.py`` or waits in ``tests/gpu``.
"""

import os

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run this file", allow_module_level=True)

from wishbone.kernels.wkv7 import triton as launcher
from wishbone.kernels.wkv7.packed import packed
from wishbone.kernels.wkv7.reference import wkv7_reference
from wishbone.kernels.wkv7.triton import Tuning, wkv7_triton

NAMES = ("r", "g", "k", "v", "a", "b", "state")
EXACT = 2e-6
"""Relative rms in float32; worst seen 6e-7, the gradient of g."""
ROUNDED = 3e-2
"""In bfloat16, which the interpreter cuts off instead of rounding: worst seen 1.6e-2."""


def inputs(batch=1, length=37, heads=1, size=16, sequences=0, dtype=torch.float32, seed=0):
    """r, g, k, v, a, b, state as a trained RWKV-7 makes them, rounded to ``dtype``."""
    random = torch.Generator().manual_seed(seed)
    shape = (batch, length, heads, size)
    r, g, k, v, direction, rate = (torch.randn(shape, generator=random) for _ in range(6))
    direction = F.normalize(direction, dim=-1)
    state = torch.randn(sequences or batch, heads, size, size, generator=random)
    tensors = [r, -0.60653 * torch.sigmoid(4 * g), k, v, -direction, direction * rate.sigmoid()]
    return [x.to(dtype).requires_grad_() for x in tensors] + [state.requires_grad_()]


def relative(actual, expected):
    """Root mean square of the difference over that of ``wanted``."""
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def results(form, arguments, rows=None):
    """y, the state after, and the gradients of a fixed weighting of both."""
    y, after = form(*arguments)
    random = torch.Generator().manual_seed(2)
    over_y, over_after = (torch.randn(x.shape, generator=random) for x in (y, after))
    if rows is not None:
        over_y = over_y * rows[..., None, None]
    weights = (over_y.to(y.dtype), over_after.to(after.dtype))
    return y, after, *torch.autograd.grad((y, after), arguments, weights)


def check(arguments, limit, mask=None, offsets=None, **options):
    """The kernels against the recurrence in float64, tensor by tensor."""
    exact = [x.detach().double().requires_grad_() for x in arguments]

    def expected(*x):
        if offsets is not None:
            return packed(wkv7_reference, x[:6], x[6], offsets)
        return wkv7_reference(*x, mask)

    actual = results(lambda *x: wkv7_triton(*x, mask, offsets, **options), arguments)
    for name, ours, true in zip(
        ("y", "after", *NAMES), actual, results(expected, exact), strict=True
    ):
        assert relative(ours, true) < limit, name
    return actual


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_every_head_size(size):
    check(inputs(size=size, length=19), EXACT)


@pytest.mark.parametrize("length", [1, 15, 16, 33])
def test_any_length(length):
    check(inputs(length=length, batch=2, heads=2), EXACT)


@pytest.mark.parametrize("chunk", [32, 64])
def test_longer_chunks_and_values_in_parts(monkeypatch, chunk):
    tuning = Tuning(4, 4, values=16, chunk=chunk)
    monkeypatch.setitem(launcher.TUNING, (32, False), tuning)
    check(inputs(length=70, size=32), EXACT)


def test_sequences_cut_into_segments():
    check(inputs(length=200, heads=2), EXACT, segment=64)


@pytest.mark.parametrize("segment", [0, 64])
def test_sequences_packed_in_one_row(segment):
    offsets = torch.tensor([0, 5, 5, 100, 117, 118])
    arguments = inputs(length=118, sequences=5)
    _, after, *_ = check(arguments, EXACT, offsets=offsets, segment=segment)
    assert torch.equal(after[1], arguments[6][1])


@pytest.mark.parametrize("segment", [0, 64])
def test_masked_positions_change_nothing_and_are_not_read(segment):
    arguments = inputs(batch=2, length=80)
    mask = torch.rand(2, 80, generator=torch.Generator().manual_seed(3)) > 0.4
    actual = check(arguments, EXACT, mask=mask, segment=segment)
    poisoned = [x.detach().clone() for x in arguments]
    for x in poisoned[1:6]:
        x[~mask] = float("nan")
    poisoned = [x.requires_grad_() for x in poisoned]
    again = results(lambda *x: wkv7_triton(*x, mask, segment=segment), poisoned)
    for name, x, y in zip(("y", "after", *NAMES), again, actual, strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("length", [17, 48])
def test_bfloat16(length):
    y, after, *grads = check(inputs(length=length, dtype=torch.bfloat16), ROUNDED)
    assert (y.dtype, after.dtype) == (torch.bfloat16, torch.float32)
    assert [x.dtype for x in grads] == 6 * [torch.bfloat16] + [torch.float32]


def test_mixed_types_keep_theirs():
    arguments = inputs(length=20)
    arguments[0] = arguments[0].detach().bfloat16().requires_grad_()
    arguments[3] = arguments[3].detach().bfloat16().requires_grad_()
    _, _, *grads = check(arguments, ROUNDED)
    assert [x.dtype for x in grads] == [x.dtype for x in arguments]


def steady(length=96, size=16):
    """Slow decay and keys that hardly change: silence, or a held vowel."""
    random = torch.Generator().manual_seed(1)
    shape = (1, length, 1, size)
    common = torch.randn(size, generator=random)
    keys = F.normalize(common + 0.02 * torch.randn(shape, generator=random), dim=-1)
    r, v = (torch.randn(shape, generator=random) for _ in range(2))
    state = torch.randn(1, 1, size, size, generator=random)
    tensors = [r, torch.full(shape, -1e-5), keys, v, -keys, 0.98 * keys, state]
    return [x.requires_grad_() for x in tensors]


@pytest.mark.parametrize("chunk", [16, 32])
def test_keys_that_hardly_change_lose_no_digits(monkeypatch, chunk):
    monkeypatch.setitem(launcher.TUNING, (16, False), Tuning(1, 1, chunk=chunk))
    check(steady(), 4e-6)


def test_only_one_of_the_results_may_be_used():
    arguments = inputs()
    exact = [x.detach().double().requires_grad_() for x in arguments]
    for index in (0, 1):
        pairs = [
            torch.autograd.grad(form(*x)[index].sum(), x, allow_unused=True)
            for form, x in ((wkv7_triton, arguments), (wkv7_reference, exact))
        ]
        for name, ours, true in zip(NAMES, *pairs, strict=True):
            true = torch.zeros_like(ours) if true is None else true
            assert (ours - true).norm() <= EXACT * (true.norm() + 1e-3), name


def test_without_a_state_there_is_none_to_differentiate():
    *steps, _ = inputs(length=20)
    y, after = wkv7_triton(*steps)
    expected, end = wkv7_reference(*(x.double() for x in steps))
    assert relative(y, expected) < EXACT
    assert relative(after, end) < EXACT
    torch.autograd.grad(y.sum(), steps)


def test_nothing_is_written_beside_the_results(monkeypatch):
    """Every result lies in the middle of a buffer whose ends must stay as they were."""
    guards = []

    def guarded(tensors):
        def build(*arguments):
            return tuple(fence(x) for x in tensors(*arguments))

        return build

    def fence(x):
        room = torch.full((x.numel() + 512,), 7.0, dtype=x.dtype)
        room[256:-256] = float("nan")
        guards.append(room)
        return room[256:-256].view(x.shape)

    monkeypatch.setattr(launcher, "_fake_forward", guarded(launcher._fake_forward))
    monkeypatch.setattr(launcher, "_fake_backward", guarded(launcher._fake_backward))
    arguments = inputs(batch=2, length=21, heads=2)
    y, after, *grads = results(wkv7_triton, arguments)
    assert len(guards) == 10
    for room in guards:
        assert (room[:256] == 7).all() and (room[-256:] == 7).all()
    # And all of a result is written: what was poison before is a number now.
    for name, x in zip(("y", "after", *NAMES), (y, after, *grads), strict=True):
        assert torch.isfinite(x).all(), name


def test_the_operators_are_what_pytorch_expects():
    arguments = inputs(length=18, heads=2)
    mask = torch.ones(1, 18, dtype=torch.bool)
    mask[:, 4] = False
    for state in (None, arguments[6]):
        complete = (*arguments[:6], state, mask, None, "ieee", 0, True)
        torch.library.opcheck(torch.ops.wishbone.wkv7.default, complete)


def test_compilation_and_checkpointing_pass_through():
    arguments = inputs(length=20)
    plain = results(wkv7_triton, arguments)
    compiled = torch.compile(wkv7_triton, fullgraph=True, backend="aot_eager")
    for form in (compiled, lambda *x: checkpoint(wkv7_triton, *x, use_reentrant=False)):
        for name, x, y in zip(("y", "after", *NAMES), results(form, arguments), plain, strict=True):
            assert torch.equal(x, y), name


def test_a_wrong_gradient_would_be_noticed(monkeypatch):
    """The state kept for the backward pass, moved by one chunk: only gradients know."""
    right = launcher._backward

    def shifted(*arguments):
        moved = list(arguments)
        moved[9] = moved[9].roll(1, 0)
        return right(*moved)

    monkeypatch.setattr(launcher, "_backward", shifted)
    with pytest.raises(AssertionError, match="^r"):
        check(inputs(length=40), EXACT)


def test_what_cannot_be_computed_is_refused():
    arguments = inputs(size=16)
    with pytest.raises(ValueError, match="head size 8"):
        wkv7_triton(*(x[..., :8] for x in arguments[:6]))
    with pytest.raises(ValueError, match="float64"):
        wkv7_triton(*(x.double() for x in arguments))
    with pytest.raises(ValueError, match="sizes must be equal"):
        wkv7_triton(*arguments[:3], arguments[3][..., :8], *arguments[4:])
    with pytest.raises(ValueError, match="segment 65"):
        wkv7_triton(*arguments, segment=65)
    with pytest.raises(ValueError, match="no mask"):
        wkv7_triton(*arguments, torch.ones(1, 37, dtype=torch.bool), torch.tensor([0, 37]))
