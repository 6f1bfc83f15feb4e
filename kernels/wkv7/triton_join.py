"""Strings segments together: from what each does to a state to the state each begins with."""

from __future__ import annotations

import triton
import triton.language as tl

from wishbone.kernels.wkv7.triton_parts import dot, sequence


@triton.jit
def join_kernel(
    maps, edge, out, offsets,
    length, heads, segments, segment,
    N: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
    PACKED: tl.constexpr, EDGE: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, heads, N // COLUMNS); out[s + 1] = maps[s, 1] out[s] + maps[s, 0].

    maps [sequences * segments, heads, 2, K, V]; edge [sequences, heads, V, K], the first of the
    states, zeros without EDGE; out [sequences * segments, heads, V, K]. With REVERSE the last
    segment takes the edge and each hands to the one before it.
    """
    number = tl.program_id(0)
    head = tl.program_id(1)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    keys = tl.arange(0, N)
    begin, end = sequence(offsets, number, length, PACKED)
    used = tl.maximum(tl.cdiv(end - begin, segment), 1).to(tl.int32)
    block = keys[:, None] * N + columns[None, :]
    turned = keys[:, None] + columns[None, :] * N
    state = tl.zeros([N, COLUMNS], dtype=tl.float32)
    if EDGE:
        state = tl.load(edge + (number * heads + head).to(tl.int64) * N * N + turned)
        state = state.to(tl.float32)
    for step in range(used):
        part = step
        if REVERSE:
            part = used - 1 - step
        lane = ((number * segments + part) * heads + head).to(tl.int64) * N * N
        tl.store(out + lane + turned, state)
        if step + 1 < used:
            added = tl.load(maps + lane * 2 + block)
            change = tl.load(maps + lane * 2 + N * N + keys[:, None] * N + keys[None, :])
            state = dot(change, state, PRECISION) + added
