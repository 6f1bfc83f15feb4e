"""WKV-7's Triton kernels with the rounding a GPU does, on Triton's CPU interpreter.

The interpreter multiplies exactly whatever precision a product asks for, so that it hides just what
ruins a matrix inverse. Here the kernels' own ``dot`` and ``operand`` are exchanged for ones that
round to nearest even as the tensor cores' operands are rounded. Run by ``test_wkv7_triton.py``.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("set TRITON_INTERPRET=1 to run this file", allow_module_level=True)

import triton.language as tl
from interpreted_wkv7 import check, inputs, steady

from wishbone.kernels.wkv7 import triton_backward, triton_forward, triton_join, triton_parts

DROPPED = {"bf16": 16, "tf32": 13}
"""Bits of a float32 that the type does without."""


def rounded(x, bits):
    """x to the nearest number whose last ``bits`` bits are zero, ties to even."""
    mantissa = x.to(tl.uint32, bitcast=True)
    mantissa += ((mantissa >> bits) & 1) + ((1 << (bits - 1)) - 1)
    return ((mantissa >> bits) << bits).to(tl.float32, bitcast=True)


def dot(x, y, PRECISION):
    """Compute ``triton_parts.dot`` as a tensor core does."""
    x, y = x.to(tl.float32), y.to(tl.float32)
    if PRECISION in DROPPED:
        bits = DROPPED[PRECISION]
        return tl.dot(rounded(x, bits), rounded(y, bits), input_precision="ieee")
    x_high, y_high = rounded(x, 13), rounded(y, 13)
    x_low, y_low = rounded(x - x_high, 13), rounded(y - y_high, 13)
    small = tl.dot(x_low, y_high, input_precision="ieee")
    small += tl.dot(x_high, y_low, input_precision="ieee")
    return small + tl.dot(x_high, y_high, input_precision="ieee")


def operand(x, PRECISION):
    """Compute ``triton_parts.operand``, held in float32."""
    x = x.to(tl.float32)
    return rounded(x, 16) if PRECISION == "bf16" else x


@pytest.fixture(autouse=True)
def rounding(monkeypatch):
    for module in (triton_parts, triton_forward, triton_backward, triton_join):
        monkeypatch.setattr(module, "dot", dot)
    for module in (triton_forward, triton_backward):
        monkeypatch.setattr(module, "operand", operand)


def halved(arguments):
    """Values bfloat16 can hold, in float32, so that results are not rounded once more."""
    return [
        x.detach().bfloat16().float().requires_grad_() if i < 6 else x
        for i, x in enumerate(arguments)
    ]


LIMITS = {
    ("usual", "tf32x3"): 2e-6,
    ("usual", "tf32"): 1.5e-3,
    ("usual", "bf16"): 1e-2,
    ("steady", "tf32x3"): 2e-6,
    ("steady", "tf32"): 4e-3,
    ("steady", "bf16"): 2.5e-2,
}
"""About twice the worst tensor seen; steady keys cost most in the gradients of v, a and b."""


@pytest.mark.parametrize(("kind", "operands"), LIMITS)
def test_what_rounding_costs(kind, operands):
    arguments = inputs(length=64, heads=2) if kind == "usual" else steady(64)
    arguments = halved(arguments) if operands == "bf16" else arguments
    check(arguments, LIMITS[kind, operands], operands=operands)


def doubled(x, L, LEVELS, SOLVE):
    """(I - x)^-1 as (I + x)(I + x^2)(I + x^4)...: right on paper."""
    one = tl.where(tl.arange(0, L)[:, None] == tl.arange(0, L)[None, :], 1.0, 0.0)
    out, power = one + x, dot(x, x, SOLVE)
    for _ in range(1, LEVELS):
        out, power = dot(out, one + power, SOLVE), dot(power, power, SOLVE)
    return out


def test_a_power_series_in_tf32_would_be_noticed(monkeypatch):
    inverse = triton_parts.inverse
    for module in (triton_forward, triton_backward):
        monkeypatch.setattr(
            module, "inverse", lambda x, L, LEVELS, _: doubled(x, L, LEVELS, "tf32")
        )
    with pytest.raises(AssertionError, match="^y"):
        check(steady(64), 2e-2, operands="tf32")
    # Merged in pairs, the same sixteen rows survive the same rounding.
    for module in (triton_forward, triton_backward):
        monkeypatch.setattr(
            module, "inverse", lambda x, L, LEVELS, _: inverse(x, L, LEVELS, "tf32")
        )
    check(steady(64), 5e-3, operands="tf32")
