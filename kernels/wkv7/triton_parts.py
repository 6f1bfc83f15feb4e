"""Functions that the Triton kernels of WKV-7 share; the symbols are those of README.md.

A tile is [L, N]: L positions of one head. The kernels use the scaled rows: ``reads`` a and r times
the decay since the chunk began, ``writes`` k and b times its inverse.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))
"""True where the kernels run on Triton's CPU interpreter, whose bfloat16 products are wrong."""


@triton.jit
def dot(x, y, PRECISION: tl.constexpr):
    """x y with float32 sums; operands as PRECISION says: bf16, tf32, tf32x3 or ieee."""
    if PRECISION == "bf16":
        x = x.to(tl.bfloat16)
        y = y.to(tl.bfloat16)
        if INTERPRETED:
            out = tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
        else:
            out = tl.dot(x, y)
    else:
        out = tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision=PRECISION)
    return out


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """x in the type the products want, so that it is held in as few registers as they need."""
    if PRECISION == "bf16":
        out = x.to(tl.bfloat16)
    else:
        out = x.to(tl.float32)
    return out


@triton.jit
def lower(x, L: tl.constexpr, DIAGONAL: tl.constexpr):
    """The lower triangle of x [L, L], by selection: what is above may be huge."""
    row = tl.arange(0, L)[:, None]
    column = tl.arange(0, L)[None, :]
    if DIAGONAL:
        valid = row >= column
    else:
        valid = row > column
    return tl.where(valid, x, 0.0)


@triton.jit
def inverse(x, L: tl.constexpr, LEVELS: tl.constexpr, SOLVE: tl.constexpr):
    """(I - x)^-1 of a strictly lower triangular x [L, L], L = 2^LEVELS.

    Blocks of 2 on the diagonal are their own series; blocks are then merged in pairs. A power
    series over more than a few rows loses all digits where keys resemble each other.
    """
    row = tl.arange(0, L)[:, None]
    column = tl.arange(0, L)[None, :]
    out = tl.where(row // 2 == column // 2, x, 0.0) + tl.where(row == column, 1.0, 0.0)
    for level in tl.static_range(1, LEVELS):
        half = 2**level
        pair = (row // (2 * half) == column // (2 * half)) & (row // half != column // half)
        below = tl.where(pair, x, 0.0)
        out += dot(dot(out, below, SOLVE), out, SOLVE)
    return out


@triton.jit
def sequence(offsets, number, length, PACKED: tl.constexpr):
    """First row and the row after the last of sequence ``number`` in the flattened batch."""
    if PACKED:
        begin = tl.load(offsets + number).to(tl.int64)
        end = tl.load(offsets + number + 1).to(tl.int64)
    else:
        begin = number.to(tl.int64) * length
        end = begin + length
    return begin, end


@triton.jit
def load_rows(pointer, places, valid):
    """A tile in float32, zeros at rows that are not ``valid``; those are not even read."""
    return tl.load(pointer + places, mask=valid[:, None], other=0.0).to(tl.float32)
