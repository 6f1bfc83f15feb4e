"""One position of RWKV-7 on a GPU: the operations of ``step.py`` as Triton kernels.

At one position nothing is expensive but reading memory and starting kernels. Up to ``SMALL``
sequences, a block is five kernels, each of which reads its matrix once and repeats the cheap norm
in every program: ``mixed_product``, ``recur`` with ``up``, ``product_add``, twice the first and
last. Beyond, the products are cuBLAS's and what lies between them is ``norm_mix``, ``recur`` and
two squeezes. A program of ``recur`` holds one head's state in registers: it is read and written
once.

Which of two is faster, and the block sizes, were not measured: no GPU was at hand.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from wishbone.kernels.wkv7.step import DECAY

TILE = 8192
"""Numbers of a matrix that one program holds: 64 for each of 128 threads."""

DECAY_ = tl.constexpr(DECAY)


@triton.jit
def _normed(x, weight, bias, real, width, eps):
    """Layer norm of rows x [P, C], of which ``width`` columns are real."""
    mean = tl.sum(x, 1) / width
    spread = tl.where(real[None, :], x - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(spread * spread, 1) / width + eps)
    return spread * scale[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _norm_mix(
    x, branch, shift, norm, eps, mix, out, batch, width,
    MIXES: tl.constexpr, ADD: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    real = column < width
    offset = row * width + column
    value = tl.load(x + offset, real, 0.0).to(tl.float32)
    if ADD:
        value += tl.load(branch + offset, real, 0.0).to(tl.float32)
        tl.store(x + offset, value.to(x.dtype.element_ty), real)
    weight = tl.load(norm + column, real, 0.0)
    bias = tl.load(norm + width + column, real, 0.0)
    h = tl.reshape(_normed(value[None, :], weight, bias, real, width, eps), (COLUMNS,))
    before = tl.load(shift + offset, real, 0.0).to(tl.float32)
    tl.store(shift + offset, h.to(shift.dtype.element_ty), real)
    for number in tl.static_range(MIXES):
        share = tl.load(mix + number * width + column, real, 0.0)
        mixed = h + (before - h) * share
        tl.store(out + number * batch * width + offset, mixed.to(out.dtype.element_ty), real)


@triton.jit
def _mixed_product(
    x, shift, norm, eps, mix, weight, out, h_out, batch, width, rows, low_rows, outputs,
    MIXES: tl.constexpr, SQUARED_RELU: tl.constexpr,
    BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    sequence = tl.arange(0, BATCH)
    column = tl.arange(0, COLUMNS)
    real = column < width
    offset = sequence[:, None] * width + column[None, :]
    inside = (sequence < batch)[:, None] & real[None, :]
    value = tl.load(x + offset, inside, 0.0).to(tl.float32)
    scale = tl.load(norm + column, real, 0.0)
    bias = tl.load(norm + width + column, real, 0.0)
    h = _normed(value, scale, bias, real, width, eps)
    before = tl.load(shift + offset, inside, 0.0).to(tl.float32)
    begin = block * ROWS
    number = 0
    if MIXES > 1:
        number = begin // rows
        if begin >= 3 * rows:
            number = 3 + (begin - 3 * rows) // low_rows
    share = tl.load(mix + number * width + column, real, 0.0)
    mixed = h + (before - h) * share[None, :]
    mixed = mixed.to(weight.dtype.element_ty).to(tl.float32)
    row = begin + tl.arange(0, ROWS)
    place = row[:, None].to(tl.int64) * width + column[None, :]
    matrix = tl.load(weight + place, (row < outputs)[:, None] & real[None, :], 0.0).to(tl.float32)
    product = tl.sum(matrix[None, :, :] * mixed[:, None, :], 2)
    if SQUARED_RELU:
        product = tl.maximum(product, 0.0)
        product = product * product
    valid = (sequence < batch)[:, None] & (row < outputs)[None, :]
    tl.store(
        out + sequence[:, None] * outputs + row[None, :], product.to(out.dtype.element_ty), valid
    )
    if block == 0:
        tl.store(h_out + offset, h.to(h_out.dtype.element_ty), inside)


@triton.jit
def _product_add(
    y, weight, x, h, shift, batch, inner, width,
    SHIFT: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    sequence = tl.arange(0, BATCH)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((BATCH, ROWS), tl.float32)
    for begin in range(0, inner, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        real = column < inner
        place = row[:, None].to(tl.int64) * inner + column[None, :]
        matrix = tl.load(weight + place, (row < width)[:, None] & real[None, :], 0.0)
        offset = sequence[:, None] * inner + column[None, :]
        value = tl.load(y + offset, (sequence < batch)[:, None] & real[None, :], 0.0)
        total += tl.sum(matrix.to(tl.float32)[None, :, :] * value.to(tl.float32)[:, None, :], 2)
    inside = (sequence < batch)[:, None] & (row < width)[None, :]
    offset = sequence[:, None] * width + row[None, :]
    before = tl.load(x + offset, inside, 0.0).to(tl.float32)
    tl.store(x + offset, (before + total).to(x.dtype.element_ty), inside)
    if SHIFT:
        normed = tl.load(h + offset, inside, 0.0)
        tl.store(shift + offset, normed.to(shift.dtype.element_ty), inside)


@triton.jit
def _low(low, up, number, sequence, channel, rank, width, low_number, low_row,
         UP: tl.constexpr, RANK: tl.constexpr):  # fmt: skip
    """One low-rank product for the channels of a head; squeezed first, by its number, with UP."""
    start = low + number * low_number + sequence * low_row
    if UP:
        inner = tl.arange(0, RANK)
        narrow = tl.load(start + inner, inner < rank, 0.0).to(tl.float32)
        if number == 0:
            narrow = _tanh(narrow)
        if number == 3:
            narrow = tl.sigmoid(narrow)
        narrow = narrow.to(up.dtype.element_ty).to(tl.float32)
        place = (number * width + channel[:, None]) * rank + inner[None, :]
        matrix = tl.load(up + place, (inner < rank)[None, :] & (channel >= 0)[:, None], 0.0)
        out = tl.sum(matrix.to(tl.float32) * narrow[None, :], 1)
    else:
        out = tl.load(start + channel).to(tl.float32)
    return out


@triton.jit
def _recur(
    rkv, low, vectors, first, state, up, h, shift, out, eps, heads, rank,
    rkv_number, rkv_row, low_number, low_row,
    LEADING: tl.constexpr, UP: tl.constexpr, SHIFT: tl.constexpr,
    SIZE: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    sequence = (tl.program_id(0) // heads).to(tl.int64)
    head = tl.program_id(0) % heads
    width = heads * SIZE
    one = tl.arange(0, SIZE)
    channel = head * SIZE + one
    offset = sequence * width + channel
    start = rkv + sequence * rkv_row + channel
    r = tl.load(start).to(tl.float32)
    k = tl.load(start + rkv_number).to(tl.float32)
    v = tl.load(start + 2 * rkv_number).to(tl.float32)
    low_w = _low(low, up, 0, sequence, channel, rank, width, low_number, low_row, UP, RANK)
    low_a = _low(low, up, 1, sequence, channel, rank, width, low_number, low_row, UP, RANK)
    gate = _low(low, up, 3, sequence, channel, rank, width, low_number, low_row, UP, RANK)
    decay = tl.exp(tl.sigmoid(low_w + tl.load(vectors + channel)) * -DECAY_)
    a = tl.sigmoid(low_a + tl.load(vectors + width + channel))
    if LEADING:
        tl.store(first + offset, v.to(first.dtype.element_ty))
    else:
        low_v = _low(low, up, 2, sequence, channel, rank, width, low_number, low_row, UP, RANK)
        share = tl.sigmoid(low_v + tl.load(vectors + 2 * width + channel))
        v += (tl.load(first + offset).to(tl.float32) - v) * share
    direction = k * tl.load(vectors + 3 * width + channel)
    direction /= tl.maximum(tl.sqrt(tl.sum(direction * direction, 0)), 1e-12)
    k *= 1 + (a - 1) * tl.load(vectors + 4 * width + channel)
    place = (tl.program_id(0).to(tl.int64) * SIZE + one[:, None]) * SIZE + one[None, :]
    matrix = tl.load(state + place).to(tl.float32)
    removed = -tl.sum(matrix * direction[None, :], 1)
    matrix = matrix * decay[None, :] + removed[:, None] * (direction * a)[None, :]
    matrix += v[:, None] * k[None, :]
    tl.store(state + place, matrix.to(state.dtype.element_ty))
    y = tl.sum(matrix * r[None, :], 1)
    spread = y - tl.sum(y, 0) / SIZE
    y = spread * tl.rsqrt(tl.sum(spread * spread, 0) / SIZE + eps)
    y = y * tl.load(vectors + 6 * width + channel) + tl.load(vectors + 7 * width + channel)
    bonus = tl.sum(r * k * tl.load(vectors + 5 * width + channel), 0)
    y = (y + bonus * v) * gate
    tl.store(out + offset, y.to(out.dtype.element_ty))
    if SHIFT:
        tl.store(shift + offset, tl.load(h + offset).to(shift.dtype.element_ty))


@triton.jit
def _squeeze(x, count, plane, LOW: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = place < count
    value = tl.load(x + place, real, 0.0).to(tl.float32)
    if LOW:
        number = place // plane
        value = tl.where(number == 0, _tanh(value), value)
        value = tl.where(number == 3, tl.sigmoid(value), value)
    else:
        value = tl.maximum(value, 0.0)
        value = value * value
    tl.store(x + place, value.to(x.dtype.element_ty), real)


def norm_mix(
    x: Tensor,
    branch: Tensor | None,
    shift: Tensor,
    norm: Tensor,
    eps: float,
    mix: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """As ``step.norm_mix``."""
    batch, width = x.shape
    out = torch.empty(len(mix), batch, width, dtype=dtype, device=x.device)
    columns = triton.next_power_of_2(width)
    _norm_mix[(batch,)](
        x, x if branch is None else branch, shift, norm, eps, mix, out, batch, width,
        MIXES=len(mix), ADD=branch is not None, COLUMNS=columns, num_warps=_warps(columns),
    )  # fmt: skip
    return out


def mixed_product(
    x: Tensor,
    shift: Tensor,
    norm: Tensor,
    eps: float,
    mix: Tensor,
    weight: Tensor,
    rows: int,
    squared_relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """As ``step.mixed_product``; ``rows`` and the rows of the rest are multiples of 16."""
    batch, width = x.shape
    outputs, columns = len(weight), triton.next_power_of_2(width)
    low_rows = (outputs - 3 * rows) // max(len(mix) - 3, 1)
    size = triton.next_power_of_2(batch)
    step = min(16, max(1, TILE // (columns * size)))
    out = torch.empty(batch, outputs, dtype=weight.dtype, device=x.device)
    h = torch.empty(batch, width, dtype=x.dtype, device=x.device)
    _mixed_product[(triton.cdiv(outputs, step),)](
        x, shift, norm, eps, mix, weight, out, h, batch, width, rows, low_rows, outputs,
        MIXES=len(mix), SQUARED_RELU=squared_relu, BATCH=size, ROWS=step, COLUMNS=columns,
    )  # fmt: skip
    return out, h


def product_add(
    y: Tensor, weight: Tensor, x: Tensor, h: Tensor | None = None, shift: Tensor | None = None
) -> None:
    """As ``step.product_add``."""
    batch, inner = y.shape
    size, columns = triton.next_power_of_2(batch), min(1024, triton.next_power_of_2(inner))
    rows = min(16, max(1, TILE // (columns * size)))
    with_shift = h is not None and shift is not None
    _product_add[(triton.cdiv(len(weight), rows),)](
        y, weight, x, h if with_shift else x, shift if with_shift else x, batch, inner, len(weight),
        SHIFT=with_shift, BATCH=size, ROWS=rows, COLUMNS=columns,
    )  # fmt: skip


def squeeze_low(low: Tensor) -> None:
    """As ``step.squeeze_low``."""
    count = low.numel()
    _squeeze[(triton.cdiv(count, 1024),)](low, count, count // 4, LOW=True, BLOCK=1024)


def squared_relu(x: Tensor) -> None:
    """As ``step.squared_relu``."""
    _squeeze[(triton.cdiv(x.numel(), 1024),)](x, x.numel(), 1, LOW=False, BLOCK=1024)


def recur(
    rkv: Tensor,
    low: Tensor,
    vectors: Tensor,
    first: Tensor,
    state: Tensor,
    eps: float,
    leading: bool,
    up: Tensor | None = None,
    h: Tensor | None = None,
    shift: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """As ``step.recur``, for heads of 16, 32, 64 or 128; rkv and low are dense in their last."""
    batch, heads, size, _ = state.shape
    rank = low.shape[-1] if up is None else up.shape[-1]
    with_shift = h is not None and shift is not None
    out = torch.empty(batch, heads * size, dtype=dtype, device=rkv.device)
    _recur[(batch * heads,)](
        rkv, low, vectors, first, state, low if up is None else up,
        h if with_shift else out, shift if with_shift else out, out, eps, heads, rank,
        rkv.stride(0), rkv.stride(1), low.stride(0), low.stride(1),
        LEADING=leading, UP=up is not None, SHIFT=with_shift,
        SIZE=size, RANK=triton.next_power_of_2(rank), num_warps=8 if size > 64 else 4,
    )  # fmt: skip
    return out


def _warps(columns: int) -> int:
    return 4 if columns <= 1024 else 8
