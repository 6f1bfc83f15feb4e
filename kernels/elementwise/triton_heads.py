"""The formulas between the projections and WKV-7, and after it, as Triton kernels.

A tile is [ROWS, N]: some positions of one head, so that norms over a head stay inside. Backward
kernels walk ``blocks`` tiles and add up what concerns the vectors; ``dvectors`` takes each group's
share [groups, vectors, D] in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of(total, heads, block, N: tl.constexpr, ROWS: tl.constexpr):
    """A tile's places, and which of its rows are real."""
    rows = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    places = (rows[:, None] * heads + tl.program_id(1)) * N + tl.arange(0, N)[None, :]
    return places, (rows < total)[:, None]


@triton.jit
def vector(pointer, N: tl.constexpr):
    """This head's part [1, N] of a vector of all heads, in float32."""
    part = tl.load(pointer + tl.program_id(1) * N + tl.arange(0, N))
    return part.to(tl.float32)[None, :]


@triton.jit
def read(pointer, places, real):
    """A tile in float32, zeros where it is not real."""
    return tl.load(pointer + places, mask=real, other=0.0).to(tl.float32)


@triton.jit
def write(pointer, places, real, x):
    """A tile in the type of what it is written to."""
    tl.store(pointer + places, x.to(pointer.dtype.element_ty), mask=real)


@triton.jit
def share(dvectors, number, heads, x, COUNT: tl.constexpr, N: tl.constexpr):
    """Writes this group's share [N] of the gradient of vector ``number``."""
    at = (tl.program_id(0) * COUNT + number) * heads + tl.program_id(1)
    tl.store(dvectors + at * N + tl.arange(0, N), x)


@triton.jit
def prepare_kernel(
    k, low_w, low_a, w0, a0, k_k, k_a,
    g, key, reads, writes,
    total, heads, decay,
    N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Grid (rows / ROWS, heads); see ``prepare_reference``."""
    places, real = rows_of(total, heads, tl.program_id(0), N, ROWS)
    x = read(k, places, real)
    rate = tl.sigmoid(read(low_a, places, real) + vector(a0, N))
    write(g, places, real, -decay * tl.sigmoid(read(low_w, places, real) + vector(w0, N)))
    turned = x * vector(k_k, N)
    length = tl.sqrt(tl.sum(turned * turned, 1))[:, None]
    direction = turned / tl.maximum(length, 1e-12)
    write(key, places, real, x * (1.0 + (rate - 1.0) * vector(k_a, N)))
    write(reads, places, real, -direction)
    write(writes, places, real, direction * rate)


@triton.jit
def prepare_backward_kernel(
    k, low_w, low_a, w0, a0, k_k, k_a,
    dg, dkey, dreads, dwrites,
    dk, dlow_w, dlow_a, dvectors,
    total, heads, decay, blocks,
    N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Grid (groups, heads); the vectors are w0, a0, k_k, k_a."""
    dw0 = tl.zeros([N], dtype=tl.float32)
    da0 = tl.zeros([N], dtype=tl.float32)
    dk_k = tl.zeros([N], dtype=tl.float32)
    dk_a = tl.zeros([N], dtype=tl.float32)
    for step in range(blocks):
        places, real = rows_of(total, heads, tl.program_id(0) * blocks + step, N, ROWS)
        x = read(k, places, real)
        rate = tl.sigmoid(read(low_a, places, real) + vector(a0, N))
        open_ = tl.sigmoid(read(low_w, places, real) + vector(w0, N))
        turned = x * vector(k_k, N)
        length = tl.sqrt(tl.sum(turned * turned, 1))[:, None]
        scale = 1.0 / tl.maximum(length, 1e-12)
        direction = turned * scale
        d_key = read(dkey, places, real)
        d_write = read(dwrites, places, real)

        d_direction = d_write * rate - read(dreads, places, real)
        along = tl.sum(d_direction * direction, 1)[:, None]
        d_turned = (d_direction - direction * along) * scale
        of_factor = d_key * x
        d_rate = (d_write * direction + of_factor * vector(k_a, N)) * rate * (1.0 - rate)
        d_open = read(dg, places, real) * -decay * open_ * (1.0 - open_)
        factor = 1.0 + (rate - 1.0) * vector(k_a, N)
        write(dk, places, real, d_key * factor + d_turned * vector(k_k, N))
        write(dlow_w, places, real, d_open)
        write(dlow_a, places, real, d_rate)
        dw0 += tl.sum(d_open, 0)
        da0 += tl.sum(d_rate, 0)
        dk_k += tl.sum(d_turned * x, 0)
        dk_a += tl.sum(of_factor * (rate - 1.0), 0)
    share(dvectors, 0, heads, dw0, 4, N)
    share(dvectors, 1, heads, da0, 4, N)
    share(dvectors, 2, heads, dk_k, 4, N)
    share(dvectors, 3, heads, dk_a, 4, N)


@triton.jit
def normed(y, eps, N: tl.constexpr):
    """y at mean 0 and variance 1 per row, and one over its deviation [ROWS, 1]."""
    centred = y - tl.sum(y, 1)[:, None] / N
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1)[:, None] / N + eps)
    return centred * inverse, inverse


@triton.jit
def finish_kernel(
    y, r, key, v, gate, r_k, weight, bias,
    out,
    total, heads, eps,
    N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Grid (rows / ROWS, heads); see ``finish_reference``."""
    places, real = rows_of(total, heads, tl.program_id(0), N, ROWS)
    even, _ = normed(read(y, places, real), eps, N)
    both = read(r, places, real) * read(key, places, real)
    bonus = tl.sum(both * vector(r_k, N), 1)[:, None]
    mixed = even * vector(weight, N) + vector(bias, N) + bonus * read(v, places, real)
    write(out, places, real, mixed * read(gate, places, real))


@triton.jit
def finish_backward_kernel(
    y, r, key, v, gate, r_k, weight, bias,
    dout,
    dy, dr, dkey, dv, dgate, dvectors,
    total, heads, eps, blocks,
    N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Grid (groups, heads); the vectors are r_k, weight, bias."""
    dr_k = tl.zeros([N], dtype=tl.float32)
    dweight = tl.zeros([N], dtype=tl.float32)
    dbias = tl.zeros([N], dtype=tl.float32)
    for step in range(blocks):
        places, real = rows_of(total, heads, tl.program_id(0) * blocks + step, N, ROWS)
        even, inverse = normed(read(y, places, real), eps, N)
        x, written, value = read(r, places, real), read(key, places, real), read(v, places, real)
        both = x * written
        bonus = tl.sum(both * vector(r_k, N), 1)[:, None]
        d = read(dout, places, real)
        mixed = even * vector(weight, N) + vector(bias, N) + bonus * value
        write(dgate, places, real, d * mixed)

        d *= read(gate, places, real)
        d_even = d * vector(weight, N)
        mean = tl.sum(d_even, 1)[:, None] / N
        along = tl.sum(d_even * even, 1)[:, None] / N
        write(dy, places, real, (d_even - mean - even * along) * inverse)
        d_bonus = tl.sum(d * value, 1)[:, None]
        weighted = d_bonus * vector(r_k, N)
        write(dv, places, real, d * bonus)
        write(dr, places, real, weighted * written)
        write(dkey, places, real, weighted * x)
        dr_k += tl.sum(both * d_bonus, 0)
        dweight += tl.sum(d * even, 0)
        dbias += tl.sum(d, 0)
    share(dvectors, 0, heads, dr_k, 3, N)
    share(dvectors, 1, heads, dweight, 3, N)
    share(dvectors, 2, heads, dbias, 3, N)
