"""The forward pass of WKV-7 in one kernel: the state never leaves the chip.

One program walks one segment of one head of one sequence. With a single segment per sequence that
is the whole scan. With several, the same kernel first runs as ``MAP``, where it finds what each
segment does to any state, ``join_kernel`` of triton_join.py strings these together, and then every
segment starts from its own state at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wishbone.kernels.wkv7.triton_parts import dot, inverse, load_rows, lower, operand, sequence


@triton.jit
def forward_kernel(
    r, g, k, v, a, b,
    mask, offsets,
    start, y, after, before, maps,
    length, heads, segments, segment,
    N: tl.constexpr, V: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr,
    PRECISION: tl.constexpr, SOLVE: tl.constexpr,
    MASKED: tl.constexpr, PACKED: tl.constexpr,
    START: tl.constexpr, KEEP: tl.constexpr, MAP: tl.constexpr,
):  # fmt: skip
    """Grid (sequences * segments, heads * N // V, 2 if MAP else 1); V values of a head each.

    r, g, k, v, a, b, y [rows, heads, N]; mask [rows] int8; offsets [sequences + 1].
    start [sequences * segments, heads, V, K]; after [sequences, heads, V, K];
    before [chunks, heads, K, V]; maps [sequences * segments, heads, 2, K, V].
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
    matrix = N * N
    # Sequences begin at a chunk of their own: floor(begin / L) + number never overlaps.
    slot = begin // L + number + part * (segment // L)
    state = tl.zeros([N, V], dtype=tl.float32)
    if MAP:
        which = tl.program_id(2)
        if first + segment >= end:
            # No segment follows that would want to know what this one does.
            chunks = 0
        if which == 1:
            state = tl.where(columns[:, None] == value_columns[None, :], 1.0, 0.0)
    elif START:
        state = tl.load(start + (lane * heads + head).to(tl.int64) * matrix + turned)

    for chunk in range(chunks):
        rows = first + chunk * L + tl.arange(0, L)
        places = (rows[:, None] * heads + head) * N + columns[None, :]
        value_places = (rows[:, None] * heads + head) * N + value_columns[None, :]
        real = rows < stop
        if MASKED:
            valid = real & (tl.load(mask + rows, mask=real, other=0) != 0)
        else:
            valid = real
        if KEEP:
            at = ((slot + chunk) * heads + head).to(tl.int64) * matrix
            tl.store(before + at + block, state.to(before.dtype.element_ty))

        decay = load_rows(g, places, valid)
        total = tl.cumsum(decay, 0)
        grown = tl.exp(-total)
        a_read = operand(load_rows(a, places, valid) * tl.exp(total - decay), PRECISION)
        k_write = operand(load_rows(k, places, valid) * grown, PRECISION)
        b_write = operand(load_rows(b, places, valid) * grown, PRECISION)
        values = load_rows(v, value_places, valid)
        if MAP:
            values = tl.where(which == 0, values, 0.0)
        values = operand(values, PRECISION)
        last = tl.exp(tl.sum(decay, 0))

        k_turned = tl.trans(k_write)
        b_turned = tl.trans(b_write)
        solve = inverse(lower(dot(a_read, b_turned, PRECISION), L, False), L, LEVELS, SOLVE)
        a_k = lower(dot(a_read, k_turned, PRECISION), L, False)
        state_operand = operand(state, PRECISION)
        u = dot(a_read, state_operand, PRECISION) + dot(a_k, values, PRECISION)
        u = operand(dot(solve, u, PRECISION), PRECISION)
        if not MAP:
            r_read = operand(load_rows(r, places, real) * tl.exp(total), PRECISION)
            r_k = lower(dot(r_read, k_turned, PRECISION), L, True)
            r_b = lower(dot(r_read, b_turned, PRECISION), L, True)
            out = dot(r_read, state_operand, PRECISION)
            out += dot(r_k, values, PRECISION) + dot(r_b, u, PRECISION)
            tl.store(y + value_places, out.to(y.dtype.element_ty), mask=real[:, None])
        state += dot(k_turned, values, PRECISION) + dot(b_turned, u, PRECISION)
        state *= last[:, None]

    if MAP:
        at = ((lane * heads + head).to(tl.int64) * 2 + which) * matrix
        tl.store(maps + at + block, state)
    else:
        is_last = (first + segment >= end) & ((first < end) | (part == 0))
        if is_last:
            at = (number * heads + head).to(tl.int64) * matrix
            tl.store(after + at + turned, state)
