"""Products inside a chunk, by class of decay, for the Triton kernels of matrix memories.

A tile is [L, K]: L positions of one head. Symbols are those of README.md: r and a read, k and b
write, a before its own position decays. Without a correction, a and b are not looked at.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wishbone.kernels.wkv7.triton_parts import dot, operand

BASE = tl.constexpr(4)
"""Rows of a block on the diagonal of the tree, as in ``tree.py``."""


@triton.jit
def load_decay(g, places, head_places, valid, inside, lowest, L: tl.constexpr, DECAY: tl.constexpr):
    """Logarithms of decays: [L, K] of channels, or [L, 1] of a head; not below ``lowest``."""
    if DECAY == 2:
        out = tl.load(g + places, mask=inside, other=0.0).to(tl.float32)
    elif DECAY == 1:
        out = tl.load(g + head_places, mask=valid, other=0.0).to(tl.float32)[:, None]
    else:
        out = tl.zeros([L, 1], dtype=tl.float32)
    return tl.maximum(out, lowest)


@triton.jit
def edges(g):
    """Decay from the chunk's start to rows that read (r, then a), after rows that write, and all.

    g [L, K] or [L, 1] -> three of its shape, and [K] or [1].
    """
    total = tl.cumsum(g, 0)
    behind = tl.cumsum(g, 0, reverse=True) - g
    return tl.exp(total), tl.exp(total - g), tl.exp(behind), tl.exp(tl.sum(g, 0))


@triton.jit
def weights(g, L: tl.constexpr):
    """Decay [L, L] of a head between two rows, for r and for a; sums begin at the row that wrote.

    Masked before the exponential: above the diagonal it would overflow.
    """
    row, column = tl.arange(0, L)[:, None], tl.arange(0, L)[None, :]
    sums = tl.cumsum(tl.where(row > column, g, 0.0), 0)
    from_r = tl.where(row >= column, tl.exp(sums), 0.0)
    from_a = tl.where(row > column, tl.exp(tl.where(row > column, sums - g, 0.0)), 0.0)
    return from_r, from_a


@triton.jit
def level_factors(g, level: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """Factors [L, K] of r, a and of writing rows, to the border of each block of a level.

    Level 0 are the blocks of 4 on the diagonal, whose border is their first row; at level n rows of
    the second half of 4 * 2^n read what those of the first half wrote, with the border between.
    """
    if level == 0:
        row = tl.arange(0, L)[:, None]
        after_first = tl.where(row % BASE == 0, 0.0, g)
        sums = tl.reshape(tl.cumsum(tl.reshape(after_first, (L // BASE, BASE, K)), 1), (L, K))
        near_r, near_a, far = tl.exp(sums), tl.exp(sums - after_first), tl.exp(-sums)
    else:
        half: tl.constexpr = BASE * 2 ** (level - 1)
        blocks = tl.reshape(g, (L // half, half, K))
        until = tl.reshape(tl.cumsum(blocks, 1), (L, K))
        behind = tl.reshape(tl.cumsum(blocks, 1, reverse=True), (L, K)) - g
        near_r, near_a, far = tl.exp(until), tl.exp(until - g), tl.exp(behind)
    return near_r, near_a, far


@triton.jit
def level_mask(level: tl.constexpr, L: tl.constexpr, DIAGONAL: tl.constexpr):
    """Pairs [L, L] of a reading and a writing row that belong to a level."""
    row, column = tl.arange(0, L)[:, None], tl.arange(0, L)[None, :]
    if level == 0:
        same = row // BASE == column // BASE
        out = same & (row >= column) if DIAGONAL else same & (row > column)
    else:
        half: tl.constexpr = BASE * 2 ** (level - 1)
        same = row // (2 * half) == column // (2 * half)
        out = same & (row // half > column // half)
    return out


@triton.jit
def products(
    r, a, k, b, g,
    L: tl.constexpr, K: tl.constexpr, LEVELS: tl.constexpr,
    CHANNEL: tl.constexpr, DELTA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """r k', a k', r b' and a b' [L, L], weighted by the decay between; zeros without a or b."""
    r_k = tl.zeros([L, L], dtype=tl.float32)
    a_k, r_b, a_b = r_k, r_k, r_k
    if CHANNEL:
        for level in tl.static_range(0, LEVELS - 1):
            near_r, near_a, far = level_factors(g, level, L, K)
            read, write = operand(r * near_r, PRECISION), tl.trans(operand(k * far, PRECISION))
            r_k += tl.where(level_mask(level, L, True), dot(read, write, PRECISION), 0.0)
            if DELTA:
                early = operand(a * near_a, PRECISION)
                fix = tl.trans(operand(b * far, PRECISION))
                a_k += tl.where(level_mask(level, L, False), dot(early, write, PRECISION), 0.0)
                r_b += tl.where(level_mask(level, L, True), dot(read, fix, PRECISION), 0.0)
                a_b += tl.where(level_mask(level, L, False), dot(early, fix, PRECISION), 0.0)
    else:
        from_r, from_a = weights(g, L)
        read, write = operand(r, PRECISION), tl.trans(operand(k, PRECISION))
        r_k = dot(read, write, PRECISION) * from_r
        if DELTA:
            early, fix = operand(a, PRECISION), tl.trans(operand(b, PRECISION))
            a_k = dot(early, write, PRECISION) * from_a
            r_b = dot(read, fix, PRECISION) * from_r
            a_b = dot(early, fix, PRECISION) * from_a
    return r_k, a_k, r_b, a_b


@triton.jit
def products_backward(
    r, a, k, b, g, d_rk, d_ak, d_rb, d_ab,
    L: tl.constexpr, K: tl.constexpr, LEVELS: tl.constexpr,
    CHANNEL: tl.constexpr, DELTA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients [L, K] of r, a, k and b from those of the four products."""
    d_r = tl.zeros([L, K], dtype=tl.float32)
    d_a, d_k, d_b = d_r, d_r, d_r
    if CHANNEL:
        for level in tl.static_range(0, LEVELS - 1):
            near_r, near_a, far = level_factors(g, level, L, K)
            after, before = level_mask(level, L, True), level_mask(level, L, False)
            read, write = operand(r * near_r, PRECISION), operand(k * far, PRECISION)
            part = operand(tl.where(after, d_rk, 0.0), PRECISION)
            of_read, of_write = dot(part, write, PRECISION), dot(tl.trans(part), read, PRECISION)
            if DELTA:
                early, fix = operand(a * near_a, PRECISION), operand(b * far, PRECISION)
                part = operand(tl.where(after, d_rb, 0.0), PRECISION)
                of_read += dot(part, fix, PRECISION)
                of_fix = dot(tl.trans(part), read, PRECISION)
                part = operand(tl.where(before, d_ak, 0.0), PRECISION)
                of_write += dot(tl.trans(part), early, PRECISION)
                of_early = dot(part, write, PRECISION)
                part = operand(tl.where(before, d_ab, 0.0), PRECISION)
                of_fix += dot(tl.trans(part), early, PRECISION)
                of_early += dot(part, fix, PRECISION)
                d_a += of_early * near_a
                d_b += of_fix * far
            d_r += of_read * near_r
            d_k += of_write * far
    else:
        from_r, from_a = weights(g, L)
        read, write = operand(r, PRECISION), operand(k, PRECISION)
        part = operand(d_rk * from_r, PRECISION)
        d_r, d_k = dot(part, write, PRECISION), dot(tl.trans(part), read, PRECISION)
        if DELTA:
            early, fix = operand(a, PRECISION), operand(b, PRECISION)
            part = operand(d_rb * from_r, PRECISION)
            d_r += dot(part, fix, PRECISION)
            d_b = dot(tl.trans(part), read, PRECISION)
            part = operand(d_ak * from_a, PRECISION)
            d_k += dot(tl.trans(part), early, PRECISION)
            d_a = dot(part, write, PRECISION)
            part = operand(d_ab * from_a, PRECISION)
            d_b += dot(tl.trans(part), early, PRECISION)
            d_a += dot(part, fix, PRECISION)
    return d_r, d_a, d_k, d_b
