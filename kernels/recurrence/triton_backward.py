"""The backward pass of matrix memories in one kernel, from the states kept before each chunk.

Everything inside a chunk is computed again; nothing but those states and the gradient of the state
is carried.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wishbone.kernels.recurrence.triton_forward import load_tile
from wishbone.kernels.recurrence.triton_parts import (
    edges,
    load_decay,
    products,
    products_backward,
)
from wishbone.kernels.wkv7.triton_parts import dot, inverse, operand


@triton.jit
def backward_kernel(
    r, k, v, g, a, b,
    lengths, before, dy, dend,
    dr, dk, dv, dg, da, db, dstate,
    length, heads, groups, keys, values, lowest, share, head_share,
    K: tl.constexpr, V: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr,
    PRECISION: tl.constexpr, SOLVE: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr,
    RAGGED: tl.constexpr, DY: tl.constexpr, END: tl.constexpr,
):  # fmt: skip
    """Grid and shapes as in ``forward_kernel``; dend and dstate are gradients of its states.

    Each program writes its share of dr, dk, da, db and dg: those of the heads of one group and of
    the tiles of one head lie ``share`` numbers apart, those of dg with DECAY 1 ``head_share``.
    """
    row = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(values, V)
    head, tile = tl.program_id(1) // tiles, tl.program_id(1) % tiles
    together = heads // groups
    group = head // together
    columns = tl.arange(0, K)
    value_columns = tile * V + tl.arange(0, V)
    inner, value_inner = columns < keys, value_columns < values
    filled = inner[:, None] & value_inner[None, :]
    block = columns[:, None] * values + value_columns[None, :]
    turned = columns[:, None] + value_columns[None, :] * keys
    at = (row * heads + head) * keys * values
    shares = (head % together * tiles + tile).to(tl.int64) * share
    head_shares = tile.to(tl.int64) * head_share
    dnow = tl.zeros([K, V], dtype=tl.float32)
    if END:
        dnow = load_tile(dend, at + turned, filled)
    last = length
    if RAGGED:
        last = tl.load(lengths + row).to(tl.int32)
    chunks = tl.cdiv(length, L)
    for step in range(chunks):
        chunk = chunks - 1 - step
        rows = chunk * L + tl.arange(0, L)
        line = row * length + rows
        real, valid = rows < length, (rows < length) & (rows < last)
        places = (line[:, None] * groups + group) * keys + columns[None, :]
        head_places = line * heads + head
        value_places = head_places[:, None] * values + value_columns[None, :]
        written = real[:, None] & inner[None, :]
        inside = valid[:, None] & inner[None, :]

        decay = load_decay(g, places, head_places, valid, inside, lowest, L, DECAY)
        near_r, near_a, far, across = edges(decay)
        reads, writes = load_tile(r, places, written), load_tile(k, places, inside)
        carried = operand(
            load_tile(v, value_places, valid[:, None] & value_inner[None, :]), PRECISION
        )
        early, fixes = reads, writes
        if DELTA:
            early, fixes = load_tile(a, places, inside), load_tile(b, places, inside)
        dout = tl.zeros([L, V], dtype=tl.float32)
        if DY:
            dout = load_tile(dy, value_places, real[:, None] & value_inner[None, :])
        dout = operand(dout, PRECISION)
        r_k, a_k, r_b, a_b = products(
            reads, early, writes, fixes, decay, L, K, LEVELS, DECAY == 2, DELTA, PRECISION
        )
        kept = ((row * chunks + chunk) * heads + head) * keys * values
        state = operand(load_tile(before, kept + block, filled), PRECISION)
        dafter = operand(dnow, PRECISION)
        dafter_turned, state_turned = tl.trans(dafter), tl.trans(state)
        last_factor = tl.sum(dafter.to(tl.float32) * state.to(tl.float32), 1) * across

        k_far = operand(writes * far, PRECISION)
        dcarried = dot(tl.trans(operand(r_k, PRECISION)), dout, PRECISION)
        dcarried += dot(k_far, dafter, PRECISION)
        read = operand(reads * near_r, PRECISION)
        dnow = dnow * across[:, None] + dot(tl.trans(read), dout, PRECISION)
        # The shares of what was written and read through the state, before and after the chunk.
        d_r = dot(dout, state_turned, PRECISION) * near_r
        d_k = dot(carried, dafter_turned, PRECISION) * far
        last_rows = writes * d_k
        d_a, d_b = d_r, d_k
        d_ak, d_rb, d_ab = r_k, r_k, r_k
        d_rk = dot(dout, tl.trans(carried), PRECISION)
        if DELTA:
            solve = operand(inverse(a_b, L, LEVELS, SOLVE), PRECISION)
            b_far = operand(fixes * far, PRECISION)
            a_near = operand(early * near_a, PRECISION)
            a_k = operand(a_k, PRECISION)
            u = dot(a_near, state, PRECISION) + dot(a_k, carried, PRECISION)
            u = operand(dot(solve, u, PRECISION), PRECISION)
            du = dot(tl.trans(operand(r_b, PRECISION)), dout, PRECISION)
            du += dot(b_far, dafter, PRECISION)
            # dZ, the gradient of a H + P_ak V
            dz = operand(dot(tl.trans(solve), du, PRECISION), PRECISION)
            dcarried += dot(tl.trans(a_k), dz, PRECISION)
            dnow += dot(tl.trans(a_near), dz, PRECISION)
            d_a = dot(dz, state_turned, PRECISION) * near_a
            d_b = dot(u, dafter_turned, PRECISION) * far
            last_rows += fixes * d_b
            d_rb = dot(dout, tl.trans(u), PRECISION)
            d_ak = dot(dz, tl.trans(carried), PRECISION)
            d_ab = dot(dz, tl.trans(u), PRECISION)
        tl.store(
            dv + value_places,
            tl.where(valid[:, None], dcarried, 0.0).to(dv.dtype.element_ty),
            mask=real[:, None] & value_inner[None, :],
        )
        more_r, more_a, more_k, more_b = products_backward(
            reads, early, writes, fixes, decay, d_rk, d_ak, d_rb, d_ab,
            L, K, LEVELS, DECAY == 2, DELTA, PRECISION,
        )  # fmt: skip
        d_r += more_r
        # Behind the length k, b and g were zeros of ours, not the caller's.
        d_k = tl.where(valid[:, None], d_k + more_k, 0.0)
        tl.store(dr + shares + places, d_r.to(dr.dtype.element_ty), mask=written)
        tl.store(dk + shares + places, d_k.to(dk.dtype.element_ty), mask=written)
        sums = reads * d_r - writes * d_k
        first = tl.zeros([L, K], dtype=tl.float32)
        if DELTA:
            d_a = tl.where(valid[:, None], d_a + more_a, 0.0)
            d_b = tl.where(valid[:, None], d_b + more_b, 0.0)
            tl.store(da + shares + places, d_a.to(da.dtype.element_ty), mask=written)
            tl.store(db + shares + places, d_b.to(db.dtype.element_ty), mask=written)
            first = early * d_a
            sums += first - fixes * d_b
        # A factor exp(sum of g) hands its gradient to every g in the sum; where g was cut off at
        # ``lowest`` it has none.
        if DECAY == 2:
            d_g = tl.cumsum(sums, 0, reverse=True) - first
            d_g += (tl.sum(last_rows, 0) + last_factor)[None, :]
            raw = tl.load(g + places, mask=inside, other=0.0).to(tl.float32)
            d_g = tl.where(inside & (raw >= lowest), d_g, 0.0)
            tl.store(dg + shares + places, d_g.to(dg.dtype.element_ty), mask=written)
        if DECAY == 1:
            d_g = tl.cumsum(tl.sum(sums, 1), 0, reverse=True) - tl.sum(first, 1)
            d_g += tl.sum(tl.sum(last_rows, 0) + last_factor, 0)
            raw = tl.load(g + head_places, mask=valid, other=0.0).to(tl.float32)
            d_g = tl.where(valid & (raw >= lowest), d_g, 0.0)
            tl.store(dg + head_shares + head_places, d_g.to(dg.dtype.element_ty), mask=real)
    tl.store(dstate + at + turned, dnow, mask=filled)
