"""The forward pass of matrix memories in one kernel: the state never leaves the chip."""

from __future__ import annotations

import triton
import triton.language as tl

from wishbone.kernels.recurrence.triton_parts import edges, load_decay, products
from wishbone.kernels.wkv7.triton_parts import dot, inverse, operand


@triton.jit
def load_tile(pointer, places, inside):
    """A tile in float32, zeros outside, where nothing is read."""
    return tl.load(pointer + places, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def forward_kernel(
    r, k, v, g, a, b,
    lengths, start, y, after, before,
    length, heads, groups, keys, values, lowest,
    K: tl.constexpr, V: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr,
    PRECISION: tl.constexpr, SOLVE: tl.constexpr,
    DECAY: tl.constexpr, DELTA: tl.constexpr,
    RAGGED: tl.constexpr, START: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Grid (batch, heads * tiles of V values); K is ``keys`` or the power of two above.

    r, k, a, b [B, T, groups, keys]; v, y [B, T, heads, values]; g by DECAY, 2: as k, 1: [B, T, H];
    lengths [B]; start, after [B, heads, values, keys]; before [B, chunks, heads, keys, values].
    """
    row = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(values, V)
    head = tl.program_id(1) // tiles
    group = head // (heads // groups)
    columns = tl.arange(0, K)
    value_columns = tl.program_id(1) % tiles * V + tl.arange(0, V)
    inner, value_inner = columns < keys, value_columns < values
    filled = inner[:, None] & value_inner[None, :]
    block = columns[:, None] * values + value_columns[None, :]
    turned = columns[:, None] + value_columns[None, :] * keys
    at = (row * heads + head) * keys * values
    state = tl.zeros([K, V], dtype=tl.float32)
    if START:
        state = load_tile(start, at + turned, filled)
    last = length
    if RAGGED:
        last = tl.load(lengths + row).to(tl.int32)
    chunks = tl.cdiv(length, L)
    for chunk in range(chunks):
        rows = chunk * L + tl.arange(0, L)
        line = row * length + rows
        real, valid = rows < length, (rows < length) & (rows < last)
        places = (line[:, None] * groups + group) * keys + columns[None, :]
        value_places = (line[:, None] * heads + head) * values + value_columns[None, :]
        inside = valid[:, None] & inner[None, :]
        if KEEP:
            kept = ((row * chunks + chunk) * heads + head) * keys * values
            tl.store(before + kept + block, state.to(before.dtype.element_ty), mask=filled)

        decay = load_decay(g, places, line * heads + head, valid, inside, lowest, L, DECAY)
        near_r, near_a, far, across = edges(decay)
        reads = load_tile(r, places, real[:, None] & inner[None, :])
        writes = load_tile(k, places, inside)
        carried = operand(
            load_tile(v, value_places, valid[:, None] & value_inner[None, :]), PRECISION
        )
        early, fixes = reads, writes
        if DELTA:
            early, fixes = load_tile(a, places, inside), load_tile(b, places, inside)
        r_k, a_k, r_b, a_b = products(
            reads, early, writes, fixes, decay, L, K, LEVELS, DECAY == 2, DELTA, PRECISION
        )
        held = operand(state, PRECISION)
        out = dot(operand(reads * near_r, PRECISION), held, PRECISION)
        out += dot(operand(r_k, PRECISION), carried, PRECISION)
        state *= across[:, None]
        state += dot(tl.trans(operand(writes * far, PRECISION)), carried, PRECISION)
        if DELTA:
            u = dot(operand(early * near_a, PRECISION), held, PRECISION)
            u += dot(operand(a_k, PRECISION), carried, PRECISION)
            u = operand(dot(inverse(a_b, L, LEVELS, SOLVE), u, PRECISION), PRECISION)
            out += dot(operand(r_b, PRECISION), u, PRECISION)
            state += dot(tl.trans(operand(fixes * far, PRECISION)), u, PRECISION)
        tl.store(
            y + value_places, out.to(y.dtype.element_ty), mask=real[:, None] & value_inner[None, :]
        )
    tl.store(after + at + turned, state, mask=filled)
