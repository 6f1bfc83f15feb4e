"""The backward pass of WKV-7 in one kernel, from the states the forward pass kept per chunk.

Everything inside a chunk is computed again; nothing but those states and the gradient of the state
is carried. Segments as in triton_forward.py, walked from their ends.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wishbone.kernels.wkv7.triton_parts import dot, inverse, load_rows, lower, operand, sequence


@triton.jit
def backward_kernel(
    r, g, k, v, a, b,
    mask, offsets,
    before, dy, dend,
    dr, dg, dk, dv, da, db, dstate, maps,
    length, heads, segments, segment, share,
    N: tl.constexpr, V: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr,
    PRECISION: tl.constexpr, SOLVE: tl.constexpr,
    MASKED: tl.constexpr, PACKED: tl.constexpr,
    DY: tl.constexpr, END: tl.constexpr, START: tl.constexpr, MAP: tl.constexpr,
):  # fmt: skip
    """Grid (sequences * segments, heads * N // V, 2 if MAP else 1); V values of a head each.

    With more than one program to a head, each writes its share of dr, dg, dk, da, db, ``share``
    numbers after the one before it. Other shapes as in ``forward_kernel``;
    dend [sequences * segments, heads, V, K] is the gradient of the state after each segment,
    dstate [sequences, heads, V, K] that of the state given.
    """
    lane = tl.program_id(0)
    head = tl.program_id(1) // (N // V)
    number = lane // segments
    part = lane % segments
    begin, end = sequence(offsets, number, length, PACKED)
    first = begin + part * segment
    stop = tl.minimum(first + segment, end)
    chunks = tl.cdiv(tl.maximum(stop - first, 0), L).to(tl.int32)
    columns = tl.arange(0, N)
    value_columns = tl.program_id(1) % (N // V) * V + tl.arange(0, V)
    block = columns[:, None] * N + value_columns[None, :]
    turned = columns[:, None] + value_columns[None, :] * N
    shares = tl.program_id(1).to(tl.int64) % (N // V) * share
    matrix = N * N
    slot = begin // L + number + part * (segment // L)
    dnow = tl.zeros([N, V], dtype=tl.float32)
    if MAP:
        which = tl.program_id(2)
        if part == 0:
            chunks = 0
        if which == 1:
            dnow = tl.where(columns[:, None] == value_columns[None, :], 1.0, 0.0)
    elif END:
        dnow = tl.load(dend + (lane * heads + head).to(tl.int64) * matrix + turned)
        dnow = dnow.to(tl.float32)

    for step in range(chunks):
        chunk = chunks - 1 - step
        rows = first + chunk * L + tl.arange(0, L)
        places = (rows[:, None] * heads + head) * N + columns[None, :]
        value_places = (rows[:, None] * heads + head) * N + value_columns[None, :]
        real = rows < stop
        if MASKED:
            valid = real & (tl.load(mask + rows, mask=real, other=0) != 0)
        else:
            valid = real

        decay = load_rows(g, places, valid)
        total = tl.cumsum(decay, 0)
        last = tl.exp(tl.sum(decay, 0))
        grown = tl.exp(-total)
        shrunk = tl.exp(total - decay)
        a_read = operand(load_rows(a, places, valid) * shrunk, PRECISION)
        r_read = operand(load_rows(r, places, real) * tl.exp(total), PRECISION)
        b_write = operand(load_rows(b, places, valid) * grown, PRECISION)
        if DY:
            dout = load_rows(dy, value_places, real)
            if MAP:
                dout = tl.where(which == 0, dout, 0.0)
        else:
            dout = tl.zeros([L, V], dtype=tl.float32)
        dout = operand(dout, PRECISION)

        b_turned = tl.trans(b_write)
        solve = inverse(lower(dot(a_read, b_turned, PRECISION), L, False), L, LEVELS, SOLVE)
        solve = operand(solve, PRECISION)
        r_b = operand(lower(dot(r_read, b_turned, PRECISION), L, True), PRECISION)

        # The state and what each position found in it: dZ is the gradient of a H + A_ak V.
        scaled = dnow * last[:, None]
        dscaled = operand(scaled, PRECISION)
        du = dot(tl.trans(r_b), dout, PRECISION) + dot(b_write, dscaled, PRECISION)
        dz = operand(dot(tl.trans(solve), du, PRECISION), PRECISION)
        dnow = scaled + dot(tl.trans(r_read), dout, PRECISION)
        dnow += dot(tl.trans(a_read), dz, PRECISION)

        if not MAP:
            at = ((slot + chunk) * heads + head).to(tl.int64) * matrix
            state = operand(tl.load(before + at + block), PRECISION)
            values = operand(load_rows(v, value_places, valid), PRECISION)
            k_write = operand(load_rows(k, places, valid) * grown, PRECISION)
            k_turned = tl.trans(k_write)
            a_k = operand(lower(dot(a_read, k_turned, PRECISION), L, False), PRECISION)
            r_k = operand(lower(dot(r_read, k_turned, PRECISION), L, True), PRECISION)
            u = dot(a_read, state, PRECISION) + dot(a_k, values, PRECISION)
            u = operand(dot(solve, u, PRECISION), PRECISION)

            dvalues = dot(tl.trans(r_k), dout, PRECISION) + dot(k_write, dscaled, PRECISION)
            dvalues += dot(tl.trans(a_k), dz, PRECISION)
            tl.store(dv + value_places, dvalues.to(dv.dtype.element_ty), mask=real[:, None])

            v_turned = tl.trans(values)
            u_turned = tl.trans(u)
            d_rk = operand(lower(dot(dout, v_turned, PRECISION), L, True), PRECISION)
            d_rb = operand(lower(dot(dout, u_turned, PRECISION), L, True), PRECISION)
            d_ak = operand(lower(dot(dz, v_turned, PRECISION), L, False), PRECISION)
            d_ab = operand(lower(dot(dz, u_turned, PRECISION), L, False), PRECISION)

            # Rows that write. Their decay to the chunk's end also moves the last sum of g.
            e_turned = tl.trans(dscaled)
            d_k = dot(values, e_turned, PRECISION)
            d_b = dot(u, e_turned, PRECISION)
            dlast = tl.sum(scaled * state.to(tl.float32), 1)
            dlast += tl.sum(k_write.to(tl.float32) * d_k + b_write.to(tl.float32) * d_b, 0)
            d_k += dot(tl.trans(d_rk), r_read, PRECISION) + dot(tl.trans(d_ak), a_read, PRECISION)
            d_b += dot(tl.trans(d_rb), r_read, PRECISION) + dot(tl.trans(d_ab), a_read, PRECISION)
            # At a masked position k, b and g were zeros of ours, not the caller's.
            d_k = tl.where(valid[:, None], d_k * grown, 0.0)
            d_b = tl.where(valid[:, None], d_b * grown, 0.0)
            tl.store(dk + shares + places, d_k.to(dk.dtype.element_ty), mask=real[:, None])
            tl.store(db + shares + places, d_b.to(db.dtype.element_ty), mask=real[:, None])
            # Read once more rather than held: registers are what this kernel runs out of.
            lost = load_rows(k, places, valid) * d_k + load_rows(b, places, valid) * d_b

            # Rows that read.
            s_turned = tl.trans(state)
            d_r = dot(dout, s_turned, PRECISION) + dot(d_rk, k_write, PRECISION)
            d_r += dot(d_rb, b_write, PRECISION)
            d_r *= tl.exp(total)
            tl.store(dr + shares + places, d_r.to(dr.dtype.element_ty), mask=real[:, None])
            d_a = dot(dz, s_turned, PRECISION) + dot(d_ak, k_write, PRECISION)
            d_a += dot(d_ab, b_write, PRECISION)
            d_a *= shrunk
            d_a = tl.where(valid[:, None], d_a, 0.0)
            tl.store(da + shares + places, d_a.to(da.dtype.element_ty), mask=real[:, None])

            # A factor exp(sum of g) hands its gradient to every g in the sum.
            early = load_rows(a, places, valid) * d_a
            sums = load_rows(r, places, real) * d_r - lost + early
            d_g = tl.cumsum(sums, 0, reverse=True) - early + dlast[None, :]
            d_g = tl.where(valid[:, None], d_g, 0.0)
            tl.store(dg + shares + places, d_g.to(dg.dtype.element_ty), mask=real[:, None])

    if MAP:
        at = ((lane * heads + head).to(tl.int64) * 2 + which) * matrix
        tl.store(maps + at + block, dnow)
    elif START:
        if part == 0:
            at = (number * heads + head).to(tl.int64) * matrix
            tl.store(dstate + at + turned, dnow)
