"""Both scans of vectors in one Triton kernel; ``triton.py`` launches it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log_add(x, y):
    """log(exp(x) + exp(y)), as exact for numbers of -1e30 as for others."""
    most = tl.maximum(x, y)
    return most + tl.log(1.0 + tl.exp(-tl.abs(x - y)))


@triton.jit
def chain(a, h, later_a, later_h):
    """Two stretches of h <- a h + b in a row: their factors, and where they lead from 0."""
    return a * later_a, later_h + later_a * h


@triton.jit
def log_chain(w, h, later_w, later_h):
    """Two stretches of h <- log(exp(h + w) + exp(k)) in a row."""
    return w + later_w, log_add(h + later_w, later_h)


@triton.jit
def scan_kernel(
    a, b, start, out, map_a, map_b,
    length, channels, segment, never,
    L: tl.constexpr, C: tl.constexpr,
    LOG: tl.constexpr, REVERSE: tl.constexpr, MAP: tl.constexpr,
):  # fmt: skip
    """Grid (batch, segments, channels / C); a, b, out [B, T, channels].

    A program walks one segment of ``segment`` positions; with REVERSE from the last position to the
    first, position t with the factor of t + 1. start, map_a and map_b [B, segments, channels]: what
    each segment begins with, or with MAP what it does to any beginning.
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.program_id(2) * C + tl.arange(0, C)
    inner = columns < channels
    lane = (row * tl.num_programs(1) + part) * channels + columns
    step = tl.arange(0, L)[:, None]
    if MAP:
        # the identity: nothing is changed by what was not yet seen
        total = tl.full([C], 0.0 if LOG else 1.0, dtype=tl.float32)
        carry = tl.full([C], 0.0, dtype=tl.float32) + (never if LOG else 0.0)
    else:
        total = tl.full([C], 0.0, dtype=tl.float32)
        carry = tl.load(start + lane, mask=inner, other=0.0)
    for begin in range(0, segment, L):
        place = begin + step
        turn = part * segment + place
        position = length - 1 - turn if REVERSE else turn
        real = (place < segment) & (turn < length) & inner[None, :]
        # Past the end, and past a segment, positions change nothing.
        known = real & (position + 1 < length) if REVERSE else real
        at = (row * length + position) * channels + columns[None, :]
        shifted = at + channels if REVERSE else at
        factor = tl.load(a + shifted, mask=known, other=0.0 if LOG else 1.0)
        added = tl.load(b + at, mask=real, other=0.0)
        if LOG:
            added = tl.where(real, added, never)
            reach, h = tl.associative_scan((factor, added), 0, log_chain)
            h = log_add(h, reach + carry[None, :])
        else:
            reach, h = tl.associative_scan((factor, added), 0, chain)
            h += reach * carry[None, :]
        if not MAP:
            tl.store(out + at, h, mask=real)
        # The last row is that after all real ones.
        carry = tl.sum(tl.where(step == L - 1, h, 0.0), 0)
        if MAP:
            last = tl.sum(tl.where(step == L - 1, reach, 0.0), 0)
            total = total + last if LOG else total * last
    if MAP:
        tl.store(map_a + lane, total, mask=inner)
        tl.store(map_b + lane, carry, mask=inner)
