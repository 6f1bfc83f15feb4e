"""The Triton scan of vectors on Triton's CPU interpreter, against the loop in float64.

Run by ``test_scans_triton.py`` in a process of its own with ``TRITON_INTERPRET=1``. Tiles are
small: the interpreter walks an associative scan number by number.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run this file", allow_module_level=True)

from test_linear_scan import gradients, line, mean
from triton import jit

from wishbone.kernels import linear_scan as package
from wishbone.kernels.linear_scan import (
    linear_scan,
    linear_scan_reference,
    rows,
    triton,
    triton_scan,
    weighted_mean,
    weighted_mean_reference,
)

EXACT = 1e-6
"""Relative rms in float32; worst seen 3e-7."""


@pytest.fixture(autouse=True)
def small_tiles_and_no_other_form(monkeypatch):
    monkeypatch.setattr(triton, "ROWS", 8)
    monkeypatch.setattr(triton, "COLUMNS", 4)
    monkeypatch.setattr(package, "_form", lambda name, x: getattr(triton, name))


def close(actual, expected, limit=EXACT):
    for x, true in zip(actual, expected, strict=True):
        assert (x.double() - true).norm() <= limit * (1 + true.norm())


def both(tensors):
    """The tensors in float32, and the same numbers in float64."""
    rounded = [x.detach().float() for x in tensors]
    return [
        [x.to(kind).requires_grad_() for x in rounded] for kind in (torch.float32, torch.float64)
    ]


@pytest.mark.parametrize("length", [1, 8, 21])
def test_the_scan_equals_the_loop(length):
    ours, true = both(line(length, (5,)))
    fast, slow = linear_scan(*ours), linear_scan_reference(*true)
    close([fast], [slow])
    close(gradients([fast], ours), gradients([slow], true))


@pytest.mark.parametrize("length", [1, 8, 21])
def test_the_mean_equals_the_loop(length):
    ours, true = both(mean(length))
    fast = weighted_mean(*ours[:3], ours[3:])
    slow = weighted_mean_reference(*true[:3], true[3:])
    close(fast, slow, 4e-6)
    close(gradients(fast, ours), gradients(slow, true), 4e-6)


@pytest.mark.parametrize(("logarithms", "reverse"), [(False, False), (False, True), (True, False)])
def test_segments_side_by_side_equal_one_walk(logarithms, reverse):
    a, b, start = (x.detach().float() for x in line(37, (5,)))
    if logarithms:
        a = a.clamp_min(1e-9).log()
    expected = triton._scan(a, b, start, logarithms, reverse, 37)
    close([triton._scan(a, b, start, logarithms, reverse, 16)], [expected.double()])


def test_nothing_before_is_a_weight_of_zero():
    k, v, w, *_ = (x.detach().float() for x in mean(5))
    means, weights = weighted_mean(k, v, w)
    assert torch.equal(means[:, 0], v[:, 0]) and torch.equal(weights[:, 0], k[:, 0])


def test_what_follows_changes_no_bit_of_what_came_before():
    a, b, start = (x.detach().float() for x in line(19, (3,)))
    h = linear_scan(a, b, start)
    for t in (1, 9):
        changed = [x.clone() for x in (a, b)]
        for x in changed:
            x[:, t:] = 0.5
        assert torch.equal(linear_scan(*changed, start)[:, :t], h[:, :t])


def test_nothing_is_written_beside_the_results(monkeypatch):
    guards = []
    empty = torch.empty_like

    def fenced(x):
        room = torch.full((x.numel() + 128,), 7.0)
        room[64:-64] = float("nan")
        guards.append(room)
        return room[64:-64].view(x.shape)

    monkeypatch.setattr(torch, "empty_like", lambda x, **_: fenced(x) if x.ndim == 3 else empty(x))
    a, b, start = (x.detach().float() for x in line(11, (5,)))
    h = triton._run(a, b, start, False, False, 0)
    assert len(guards) == 1 and torch.isfinite(h).all()
    assert (guards[0][:64] == 7).all() and (guards[0][-64:] == 7).all()


def test_the_operator_is_what_pytorch_expects():
    a, b, start = (x.detach().float() for x in line(5, (3,)))
    torch.library.opcheck(
        torch.ops.wishbone.vector_scan.default, (a, b, start, False, True, 0),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_a_wrong_order_of_the_chain_is_seen(monkeypatch):
    """Negative control: the later stretch handed to the earlier one."""

    @jit
    def careless(a, h, later_a, later_h):
        return a * later_a, h + a * later_h

    monkeypatch.setitem(triton.scan_kernel.fn.__globals__, "chain", careless)
    assert triton_scan.chain is careless
    a, b, start = (x.detach().float() for x in line(11, (3,)))
    with pytest.raises(AssertionError):
        close([triton.scan(a, b, start)], [rows.scan(a.double(), b.double(), start.double())])


def test_a_factor_of_its_own_position_in_the_backward_pass_is_seen(monkeypatch):
    """Negative control: a_t where a_{t+1} belongs."""

    def careless(a, dh):
        nothing = torch.zeros_like(a[:, 0])
        return triton._scan(a.flip(1), dh.flip(1), nothing, False, False, 0).flip(1)

    monkeypatch.setattr(triton, "scan_back", careless)
    ours, true = both(line(11, (3,)))
    slow = gradients([linear_scan_reference(*true)], true)
    with pytest.raises(AssertionError):
        close(gradients([linear_scan(*ours)], ours), slow)
