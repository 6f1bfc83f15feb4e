"""Token shift and squared ReLU as Triton kernels, forward and backward."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile(total, width, block, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows, columns, numbers' places and which are real, of a tile [ROWS, COLUMNS]."""
    rows = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    places = rows[:, None] * width + columns[None, :]
    real = (rows < total)[:, None] & (columns < width)[None, :]
    return rows, columns, places, real


@triton.jit
def vectors(h, before, rows, columns, places, real, length, width, SHIFT: tl.constexpr):
    """The vectors at these rows and those before them, in float32."""
    x = tl.load(h + places, mask=real, other=0.0).to(tl.float32)
    if SHIFT:
        first = (rows % length == 0)[:, None]
        earlier = tl.load(h + places - width, mask=real & (first == 0), other=0.0)
        carry = (rows // length)[:, None] * width + columns[None, :]
        carried = tl.load(before + carry, mask=real & first, other=0.0)
        prior = tl.where(first, carried.to(tl.float32), earlier.to(tl.float32))
    else:
        prior = tl.load(before + places, mask=real, other=0.0).to(tl.float32)
    return x, prior


@triton.jit
def mix_kernel(
    h, before, mix, outs,
    total, length, width,
    COUNT: tl.constexpr, SHIFT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Grid (rows / ROWS, width / COLUMNS). With SHIFT before is [B, D], else [B, T, D]."""
    rows, columns, places, real = tile(total, width, tl.program_id(0), ROWS, COLUMNS)
    x, prior = vectors(h, before, rows, columns, places, real, length, width, SHIFT)
    for i in tl.static_range(COUNT):
        share = tl.load(mix + i * width + columns, mask=columns < width, other=0.0)
        out = x + (prior - x) * share.to(tl.float32)[None, :]
        tl.store(outs[i] + places, out.to(outs[i].dtype.element_ty), mask=real)


@triton.jit
def mix_backward_kernel(
    h, before, mix, douts,
    dh, dbefore, dmix,
    total, length, width, blocks,
    COUNT: tl.constexpr, SHIFT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
):  # fmt: skip
    """Grid (groups, width / COLUMNS); each program walks ``blocks`` tiles.

    dmix [groups, COUNT, D] float32 takes each group's share; PADDED is COUNT up to a power of two.
    """
    index = tl.arange(0, PADDED)[:, None]
    shares = tl.zeros([PADDED, COLUMNS], dtype=tl.float32)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    for step in range(blocks):
        block = tl.program_id(0) * blocks + step
        rows, columns, places, real = tile(total, width, block, ROWS, COLUMNS)
        x, prior = vectors(h, before, rows, columns, places, real, length, width, SHIFT)
        dx = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        dprior = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        last = (rows % length == length - 1)[:, None]
        for i in tl.static_range(COUNT):
            share = tl.load(mix + i * width + columns, mask=columns < width, other=0.0)
            share = share.to(tl.float32)[None, :]
            d = tl.load(douts[i] + places, mask=real, other=0.0).to(tl.float32)
            dx += d * (1.0 - share)
            dprior += d * share
            shares += tl.where(index == i, tl.sum(d * (prior - x), 0)[None, :], 0.0)
            if SHIFT:
                # The row after this one took its share of it.
                late = real & (last == 0)
                d = tl.load(douts[i] + places + width, mask=late, other=0.0)
                dx += d.to(tl.float32) * share
        tl.store(dh + places, dx.to(dh.dtype.element_ty), mask=real)
        if SHIFT:
            first = (rows % length == 0)[:, None]
            carry = (rows // length)[:, None] * width + columns[None, :]
            tl.store(dbefore + carry, dprior.to(dbefore.dtype.element_ty), mask=real & first)
        else:
            tl.store(dbefore + places, dprior.to(dbefore.dtype.element_ty), mask=real)
    at = (tl.program_id(0) * COUNT + index) * width + columns[None, :]
    tl.store(dmix + at, shares, mask=(index < COUNT) & (columns < width)[None, :])


@triton.jit
def squared_relu_kernel(x, out, total, SIZE: tl.constexpr):
    """Grid (total / SIZE)."""
    places = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    real = places < total
    positive = tl.maximum(tl.load(x + places, mask=real, other=0.0).to(tl.float32), 0.0)
    tl.store(out + places, (positive * positive).to(out.dtype.element_ty), mask=real)


@triton.jit
def squared_relu_backward_kernel(x, dout, dx, total, SIZE: tl.constexpr):
    """Grid (total / SIZE)."""
    places = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    real = places < total
    positive = tl.maximum(tl.load(x + places, mask=real, other=0.0).to(tl.float32), 0.0)
    d = tl.load(dout + places, mask=real, other=0.0).to(tl.float32)
    tl.store(dx + places, (2.0 * positive * d).to(dx.dtype.element_ty), mask=real)
