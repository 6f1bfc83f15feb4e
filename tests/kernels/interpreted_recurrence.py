"""The Triton kernels of matrix memories on Triton's CPU interpreter, against the loop in float64.

Run by ``test_scans_triton.py`` in a process of its own with ``TRITON_INTERPRET=1``, because
kernels are interpreted or compiled from the moment they are imported.
"""

import os

import pytest
import torch
from torch.utils.checkpoint import checkpoint

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run this file", allow_module_level=True)

from test_recurrence import CLASSES, EVERY, inputs, relative, results

from wishbone.kernels.recurrence import recurrence_reference, triton_backward, triton_parts
from wishbone.kernels.recurrence import triton as launcher
from wishbone.kernels.recurrence.triton import Tuning, recurrence_triton

EXACT = 2e-6
"""Relative rms in float32; worst seen 6e-7, the gradient of g."""
NAMES = ("r", "k", "v", "g", "a", "b", "state")


def draw(decay="channel", delta=True, length=19, dtype=torch.float32, **sizes):
    """One of ``test_recurrence.inputs``, rounded to ``dtype`` but for the state."""
    sizes = {"heads": 1, "groups": 1} | sizes
    return {
        name: x.detach().to(torch.float32 if name == "state" else dtype).requires_grad_()
        for name, x in inputs(decay, delta, length, **sizes).items()
    }


def check(arguments, limit=EXACT, lengths=None, **options):
    """The kernels against the recurrence in float64, tensor by tensor."""
    exact = {name: x.detach().double().requires_grad_() for name, x in arguments.items()}
    expected = results(recurrence_reference, exact, lengths=lengths)
    actual = results(recurrence_triton, arguments, lengths=lengths, **options)
    for name, true in expected.items():
        assert relative(actual[name], true) < limit, name
    return actual


@EVERY
def test_every_class(decay, delta):
    check(draw(decay, delta, heads=2, groups=2))


@EVERY
def test_shared_keys_odd_sizes_lengths_and_several_tiles_of_values(monkeypatch, decay, delta):
    monkeypatch.setitem(launcher.TUNING, (64, delta, False), Tuning(4, 4, 32))
    arguments = draw(decay, delta, 21, groups=1, heads=2, keys=20, values=33)
    check(arguments, lengths=torch.tensor([21, 5]))


@pytest.mark.parametrize("length", [1, 16, 33])
def test_any_length(length):
    check(draw(length=length))


@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("chunk", [32, 64])
def test_longer_chunks(monkeypatch, chunk, decay):
    monkeypatch.setitem(launcher.TUNING, (64, True, False), Tuning(4, 4, 16, chunk))
    check(draw(decay, length=70, heads=1, groups=1))


def test_keys_of_128_numbers():
    check(draw(keys=128, values=16, length=17, groups=1, heads=1))


@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("strength", [0.0, 20.0, 500.0])
def test_a_constant_decay_of_any_strength_gives_numbers(decay, strength):
    arguments = draw(decay, length=33)
    arguments["g"] = torch.full_like(arguments["g"], -strength).requires_grad_()
    actual = results(recurrence_triton, arguments)
    exact = {name: x.detach().double().requires_grad_() for name, x in arguments.items()}
    expected = results(recurrence_reference, exact)
    for name, x in actual.items():
        assert torch.isfinite(x).all(), name
        if name not in ("g", "state"):  # nearly 0 where nothing survives
            assert relative(x, expected[name]) < EXACT, name
    if strength > 20:
        assert not actual["g"].any()  # cut off, as on a CPU


def test_a_strong_decay_costs_later_rows_no_digits():
    for decay in ("head", "channel"):
        arguments = draw(decay, length=32)
        strong = torch.arange(32).view(-1, *(1,) * (arguments["g"].ndim - 2)) % 16 < 8
        g = torch.where(strong, -19.0, -0.01).expand_as(arguments["g"])
        arguments["g"] = g.contiguous().requires_grad_()
        check(arguments)


def test_positions_behind_the_length_are_not_read():
    """Whatever lies there, but for r, which still reads the state."""
    lengths = torch.tensor([19, 4])
    arguments = draw()
    plain = check(arguments, lengths=lengths)
    poisoned = {name: x.detach().clone() for name, x in arguments.items()}
    for name in ("k", "v", "g", "a", "b"):
        poisoned[name][1, 4:] = float("nan")
    poisoned = {name: x.requires_grad_() for name, x in poisoned.items()}
    for name, x in results(recurrence_triton, poisoned, lengths=lengths).items():
        assert torch.equal(x, plain[name]), name


@pytest.mark.parametrize(("decay", "delta"), [("none", False), ("head", True), ("channel", True)])
def test_earlier_outputs_do_not_change_by_a_bit(decay, delta):
    first = {n: x.detach() for n, x in draw(decay, delta, 34).items()}
    other = {n: x.detach() for n, x in draw(decay, delta, 34, seed=1).items()}
    y, _ = recurrence_triton(**first)
    for cut in (1, 18):
        later = torch.arange(34) >= cut
        mixed = {
            name: torch.where(later.view(1, -1, *(1,) * (x.ndim - 2)), other[name], x)
            for name, x in first.items()
            if name != "state"
        }
        again, _ = recurrence_triton(**mixed, state=first["state"])
        assert torch.equal(again[:, :cut], y[:, :cut])


@EVERY
def test_bfloat16(decay, delta):
    """Cut off, where a GPU rounds: worst seen 3e-2, the gradient of g."""
    arguments = draw(decay, delta, dtype=torch.bfloat16, strongest=2.0)
    actual = check(arguments, 6e-2)
    assert actual["y"].dtype == torch.bfloat16
    assert actual["after"].dtype == actual["state"].dtype == torch.float32
    assert all(actual[name].dtype == arguments[name].dtype for name in arguments)


def test_only_one_of_the_results_may_be_used():
    arguments = draw()
    exact = {name: x.detach().double().requires_grad_() for name, x in arguments.items()}
    for index in (0, 1):
        pairs = [
            torch.autograd.grad(form(**x)[index].sum(), list(x.values()), allow_unused=True)
            for form, x in ((recurrence_triton, arguments), (recurrence_reference, exact))
        ]
        for name, ours, true in zip(arguments, *pairs, strict=True):
            true = torch.zeros_like(ours) if true is None else true
            assert (ours - true).norm() <= EXACT * (true.norm() + 1e-3), name


def test_without_a_state_there_is_none_to_differentiate():
    arguments = draw("head", False)
    del arguments["state"]
    check(arguments)


def test_nothing_is_written_beside_the_results_and_all_of_them_is(monkeypatch):
    guards = []

    def fence(x):
        room = torch.full((x.numel() + 512,), 7.0, dtype=x.dtype)
        room[256:-256] = float("nan")
        guards.append(room)
        return room[256:-256].view(x.shape)

    for name in ("_fake_forward", "_fake_backward"):
        fake = getattr(launcher, name)
        monkeypatch.setattr(launcher, name, lambda *x, fake=fake: tuple(map(fence, fake(*x))))
    monkeypatch.setitem(launcher.TUNING, (64, True, False), Tuning(4, 4, 16))
    actual = results(recurrence_triton, draw(keys=10, values=21))
    assert len(guards) == 10
    for room in guards:
        assert (room[:256] == 7).all() and (room[-256:] == 7).all()
    for name, x in actual.items():
        assert torch.isfinite(x).all(), name


@pytest.mark.parametrize(("decay", "delta"), [CLASSES[0], CLASSES[-1]])
def test_the_operators_are_what_pytorch_expects(decay, delta):
    arguments = draw(decay, delta, 5, heads=1, groups=1)
    tensors = [arguments.get(name) for name in NAMES]
    complete = (*tensors, torch.tensor([5, 2]), "ieee", True)
    torch.library.opcheck(torch.ops.wishbone.recurrence.default, complete)


def test_compilation_and_checkpointing_pass_through():
    tensors = list(draw(length=18).values())
    order = ("r", "k", "v", "state", "g", "a", "b")

    def form(*x):
        return recurrence_triton(**dict(zip(order, x, strict=True)))

    expected = torch.autograd.grad(form(*tensors)[0].sum(), tensors)
    for other in (
        torch.compile(form, fullgraph=True, backend="aot_eager"),
        lambda *x: checkpoint(form, *x, use_reentrant=False),
    ):
        actual = torch.autograd.grad(other(*tensors)[0].sum(), tensors)
        for x, y in zip(actual, expected, strict=True):
            assert torch.equal(x, y)


def test_what_cannot_be_computed_is_refused():
    arguments = draw()
    with pytest.raises(ValueError, match="float64"):
        recurrence_triton(**{name: x.double() for name, x in arguments.items()})
    with pytest.raises(ValueError, match="keys of 130 numbers"):
        recurrence_triton(**draw(keys=130))
    with pytest.raises(ValueError, match="operands 'int4'"):
        recurrence_triton(**arguments, operands="int4")


def test_operands_follow_what_the_inputs_went_through():
    x = torch.zeros(1)
    assert launcher._operands(x, None) == "tf32x3"
    assert launcher._operands(x, x.half()) == "tf32"
    assert launcher._operands(x, x.bfloat16()) == "bf16"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert launcher._operands(x) == "tf32"


def test_a_wrong_gradient_would_be_noticed(monkeypatch):
    """The states kept for the backward pass, moved by one chunk: only gradients know."""
    right = launcher._backward

    def shifted(*arguments):
        return right(*arguments[:7], arguments[7].roll(1, 1), *arguments[8:])

    monkeypatch.setattr(launcher, "_backward", shifted)
    with pytest.raises(AssertionError, match="^r"):
        check(draw(length=40))


def test_a_correction_before_the_decay_would_be_noticed(monkeypatch):
    """``a`` scaled by its own row's decay, as r is: another model, and no NaN to warn."""
    right = triton_parts.edges

    def late(g):
        near_r, _, far, across = right(g)
        return near_r, near_r, far, across

    for module in (launcher.forward_kernel, launcher.backward_kernel):
        monkeypatch.setitem(module.fn.__globals__, "edges", late)
    with pytest.raises(AssertionError, match="^y"):
        check(draw())


def test_a_decay_gradient_that_takes_its_own_reading_row_along_would_be_noticed(monkeypatch):
    right = triton_backward.products_backward

    def doubled(*arguments):
        d_r, d_a, d_k, d_b = right(*arguments)
        return d_r, d_a, d_k, d_b * 1.0001

    monkeypatch.setattr(triton_backward, "products_backward", doubled)
    with pytest.raises(AssertionError, match="^(g|b)"):
        check(draw())
