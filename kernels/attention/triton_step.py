"""One position of a Transformer on a GPU: the operations of ``step.py`` as Triton kernels.

With ``wishbone.kernels.wkv7.triton_step.product_add`` a block is six kernels for a few sequences;
for many, the products are cuBLAS's and a block is nine. Attention reads each row's cache to its own
end and no further, in pieces of ``SPLIT`` slots that a second kernel joins, so that one sequence of
a few thousand slots keeps more than a few processors busy. Speed was not measured: no GPU was at
hand.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wishbone.kernels.wkv7.triton_parts import dot

SPLIT = 256
"""Slots one program attends to."""

TILE = 8192
"""Numbers of a matrix that one program holds: 64 for each of 128 threads."""

SIZES = (16, 32, 64, 128)
"""Heads whose products fit the tensor cores."""


@triton.jit
def _rms(x, scale, width, eps):
    """Rows x [P, C] over their root mean square; columns beyond ``width`` are zero."""
    return x * tl.rsqrt(tl.sum(x * x, 1) / width + eps)[:, None] * scale[None, :]


@triton.jit
def _norm_add(x, branch, scale, eps, out, width, ADD: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    real = column < width
    offset = row * width + column
    value = tl.load(x + offset, real, 0.0).to(tl.float32)
    if ADD:
        value += tl.load(branch + offset, real, 0.0).to(tl.float32)
        tl.store(x + offset, value.to(x.dtype.element_ty), real)
    h = _rms(value[None, :], tl.load(scale + column, real, 0.0), width, eps)
    tl.store(out + offset, tl.reshape(h, (COLUMNS,)).to(out.dtype.element_ty), real)


@triton.jit
def _product(h, weight, bias, row, width, outputs, BIAS: tl.constexpr):
    """h [P, C] times rows of weight [O, width] -> [P, ROWS]."""
    column = tl.arange(0, h.shape[1])
    valid = (row < outputs)[:, None] & (column < width)[None, :]
    matrix = tl.load(weight + row[:, None].to(tl.int64) * width + column[None, :], valid, 0.0)
    out = tl.sum(matrix.to(tl.float32)[None, :, :] * h[:, None, :], 2)
    if BIAS:
        out += tl.load(bias + row, row < outputs, 0.0).to(tl.float32)[None, :]
    return out


@triton.jit
def _norm_product(
    x, scale, eps, weight, bias, out, batch, width, outputs,
    BIAS: tl.constexpr, GATED: tl.constexpr,
    BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    sequence = tl.arange(0, BATCH)
    column = tl.arange(0, COLUMNS)
    real = column < width
    inside = (sequence < batch)[:, None] & real[None, :]
    value = tl.load(x + sequence[:, None] * width + column[None, :], inside, 0.0).to(tl.float32)
    h = _rms(value, tl.load(scale + column, real, 0.0), width, eps)
    h = h.to(weight.dtype.element_ty).to(tl.float32)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    result = _product(h, weight, bias, row, width, outputs, BIAS)
    if GATED:
        other = weight + outputs.to(tl.int64) * width
        result *= tl.sigmoid(result)
        result *= _product(h, other, bias + outputs, row, width, outputs, BIAS)
    valid = (sequence < batch)[:, None] & (row < outputs)[None, :]
    place = sequence[:, None] * outputs + row[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), valid)


@triton.jit
def _gate(x, out, width, count, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = place < count
    start = (place // width) * 2 * width + place % width
    first = tl.load(x + start, real, 0.0).to(tl.float32)
    second = tl.load(x + start + width, real, 0.0).to(tl.float32)
    tl.store(out + place, (first * tl.sigmoid(first) * second).to(out.dtype.element_ty), real)


@triton.jit
def _turned(start, cosines, sines, SIZE: tl.constexpr):
    """Rows start [P, 1] of heads [P, K], channel j turned with channel j + K / 2."""
    half: tl.constexpr = SIZE // 2
    one = tl.arange(0, SIZE)
    x = tl.load(start + one[None, :]).to(tl.float32)
    partner = tl.load(start + ((one + half) % SIZE)[None, :]).to(tl.float32)
    sine = tl.load(sines + one % half)
    sine = tl.where(one < half, -sine, sine)
    return x * tl.load(cosines + one % half)[None, :] + partner * sine[None, :]


@triton.jit
def _attend(
    qkv, key, value, length, cosines, sines, part, peak, total, scale, groups, share, room,
    SIZE: tl.constexpr, SHARE: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    sequence = pair // groups
    group = pair % groups
    one = tl.arange(0, SIZE)
    query = tl.arange(0, SHARE)
    place = tl.minimum(tl.load(length + sequence), room - 1).to(tl.int32)
    angle = sequence * (SIZE // 2)
    row = qkv + sequence * (groups * share + 2 * groups) * SIZE
    # queries beyond the group's own repeat its last, and are dropped when the pieces are joined
    number = group * share + tl.minimum(query, share - 1)
    q = _turned(row + number[:, None] * SIZE, cosines + angle, sines + angle, SIZE)
    q = q.to(key.dtype.element_ty)
    start = row + (groups * share + group) * SIZE + tl.zeros((1, 1), tl.int32)
    new_key = _turned(start, cosines + angle, sines + angle, SIZE).to(key.dtype.element_ty)
    new_value = tl.load(start + groups * SIZE + one[None, :]).to(value.dtype.element_ty)
    begin = piece * SPLIT
    end = tl.minimum(begin + SPLIT, place + 1)
    cache = pair * room * SIZE
    if (place >= begin) & (place < end):
        tl.store(key + cache + place * SIZE + one[None, :], new_key)
        tl.store(value + cache + place * SIZE + one[None, :], new_value)
    most = tl.full((SHARE,), float("-inf"), tl.float32)
    sums = tl.zeros((SHARE,), tl.float32)
    mixed = tl.zeros((SHARE, SIZE), tl.float32)
    for first in range(begin, end, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        offset = cache + slot[:, None] * SIZE + one[None, :]
        old = (slot < place)[:, None]
        newest = (slot == place)[:, None]
        keys = tl.where(newest, new_key, tl.load(key + offset, old, 0.0))
        values = tl.where(newest, new_value, tl.load(value + offset, old, 0.0))
        scores = dot(q, tl.trans(keys), PRECISION) * scale
        scores = tl.where((slot <= place)[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        shares = tl.exp(scores - higher[:, None])
        shrink = tl.exp(most - higher)
        sums = sums * shrink + tl.sum(shares, 1)
        mixed = mixed * shrink[:, None] + dot(shares.to(values.dtype), values, PRECISION)
        most = higher
    line = (pair * tl.num_programs(1) + piece) * SHARE + query
    tl.store(part + line[:, None] * SIZE + one[None, :], mixed)
    tl.store(peak + line, most)
    tl.store(total + line, sums)


@triton.jit
def _join(
    part, peak, total, out, groups, share, pieces,
    SIZE: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    one = tl.arange(0, SIZE)
    query = tl.arange(0, SHARE)
    # the first piece is never empty, so its peak is a number
    line = pair * pieces * SHARE + query
    most = tl.load(peak + line)
    sums = tl.load(total + line)
    mixed = tl.load(part + line[:, None] * SIZE + one[None, :])
    for piece in range(1, pieces):
        line = (pair * pieces + piece) * SHARE + query
        other = tl.load(peak + line)
        higher = tl.maximum(most, other)
        shrink = tl.exp(most - higher)
        grow = tl.exp(other - higher)
        sums = sums * shrink + tl.load(total + line) * grow
        more = tl.load(part + line[:, None] * SIZE + one[None, :])
        mixed = mixed * shrink[:, None] + more * grow[:, None]
        most = higher
    place = (pair * share + query)[:, None] * SIZE + one[None, :]
    y = mixed / sums[:, None]
    tl.store(
        out + place, y.to(out.dtype.element_ty), (query < share)[:, None] & (one >= 0)[None, :]
    )


def norm_add(
    x: Tensor, branch: Tensor | None, scale: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """As ``step.norm_add``."""
    batch, width = x.shape
    out = torch.empty(batch, width, dtype=dtype, device=x.device)
    columns = triton.next_power_of_2(width)
    _norm_add[(batch,)](
        x, x if branch is None else branch, scale, eps, out, width,
        ADD=branch is not None, COLUMNS=columns, num_warps=4 if columns <= 1024 else 8,
    )  # fmt: skip
    return out


def norm_product(
    x: Tensor, scale: Tensor, eps: float, weight: Tensor, bias: Tensor | None, gated: bool = False
) -> Tensor:
    """As ``step.norm_product``."""
    batch, width = x.shape
    outputs = len(weight) // 2 if gated else len(weight)
    size, columns = triton.next_power_of_2(batch), triton.next_power_of_2(width)
    rows = min(16, max(1, TILE // (columns * size)))
    out = torch.empty(batch, outputs, dtype=weight.dtype, device=x.device)
    _norm_product[(triton.cdiv(outputs, rows),)](
        x, scale, eps, weight, scale if bias is None else bias, out, batch, width, outputs,
        BIAS=bias is not None, GATED=gated, BATCH=size, ROWS=rows, COLUMNS=columns,
    )  # fmt: skip
    return out


def gate(x: Tensor) -> Tensor:
    """As ``step.gate``."""
    width = x.shape[-1] // 2
    out = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    _gate[(triton.cdiv(out.numel(), 1024),)](x, out, width, out.numel(), BLOCK=1024)
    return out


def attend(
    qkv: Tensor,
    key: Tensor,
    value: Tensor,
    length: Tensor,
    angles: tuple[Tensor, Tensor],
    limit: int,
    dtype: torch.dtype,
) -> Tensor:
    """As ``step.attend``, for heads of 16, 32, 64 or 128."""
    batch, groups, room, size = key.shape
    share = qkv.shape[1] // size // groups - 2
    padded = max(16, triton.next_power_of_2(share))
    pieces = triton.cdiv(limit, SPLIT)
    part = qkv.new_empty(batch * groups, pieces, padded, size, dtype=torch.float32)
    peak, total = part.new_empty(2, batch * groups, pieces, padded)
    out = torch.empty(batch, groups * share * size, dtype=dtype, device=qkv.device)
    _attend[(batch * groups, pieces)](
        qkv, key, value, length, *angles, part, peak, total, size**-0.5, groups, share, room,
        SIZE=size, SHARE=padded, SPLIT=SPLIT, BLOCK=64 if size <= 64 else 32,
        PRECISION="bf16" if key.dtype == torch.bfloat16 else "ieee",
    )  # fmt: skip
    _join[(batch * groups,)](part, peak, total, out, groups, share, pieces, SIZE=size, SHARE=padded)
    return out
