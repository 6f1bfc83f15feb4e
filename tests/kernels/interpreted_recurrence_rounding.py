"""The Triton kernels of matrix memories with the rounding a GPU does, on the CPU interpreter.

As ``interpreted_rounding.py`` does for WKV-7, whose stand-ins these are.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run this file", allow_module_level=True)

import torch
from interpreted_recurrence import check, draw
from interpreted_rounding import dot, operand
from torch.nn import functional as F

from wishbone.kernels.recurrence import triton_backward, triton_forward, triton_parts
from wishbone.kernels.wkv7 import triton_parts as shared


@pytest.fixture(autouse=True)
def rounding(monkeypatch):
    for module in (shared, triton_parts, triton_forward, triton_backward):
        monkeypatch.setattr(module, "dot", dot)
    for module in (triton_parts, triton_forward, triton_backward):
        monkeypatch.setattr(module, "operand", operand)


def steady(decay, length=48, size=16):
    """Slow decay and keys that hardly change: silence, or a held vowel."""
    arguments = draw(decay, length=length, heads=1, groups=1, keys=size, values=size)
    random = torch.Generator().manual_seed(1)
    common = torch.randn(size, generator=random)
    noise = 0.02 * torch.randn(arguments["k"].shape, generator=random)
    keys = F.normalize(common + noise, dim=-1)
    changed = {"k": keys, "a": -keys, "b": 0.98 * keys}
    if decay != "none":
        changed["g"] = torch.full_like(arguments["g"], -1e-5)
    return {**arguments, **{name: x.requires_grad_() for name, x in changed.items()}}


LIMITS = {"tf32x3": 2e-6, "tf32": 4e-3, "bf16": 3e-2}
"""About twice the worst tensor seen."""


@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("operands", LIMITS)
def test_what_rounding_costs(decay, operands):
    arguments = draw(decay, length=40, heads=1, groups=1, strongest=8.0)
    check(arguments, LIMITS[operands], operands=operands)
    check(steady(decay), LIMITS[operands], operands=operands)


def test_an_inverse_in_plain_tf32_would_be_noticed(monkeypatch):
    right = shared.inverse
    for module in (triton_forward, triton_backward):
        monkeypatch.setattr(module, "inverse", lambda x, L, LEVELS, _: right(x, L, LEVELS, "tf32"))
    with pytest.raises(AssertionError):
        check(steady("none"), LIMITS["tf32x3"], operands="tf32x3")
