"""The Triton kernels around WKV-7 as operators that PyTorch can trace, check and differentiate."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from wishbone.kernels.elementwise.reference import DECAY
from wishbone.kernels.elementwise.triton_heads import (
    finish_backward_kernel,
    finish_kernel,
    prepare_backward_kernel,
    prepare_kernel,
)
from wishbone.kernels.elementwise.triton_mix import (
    mix_backward_kernel,
    mix_kernel,
    squared_relu_backward_kernel,
    squared_relu_kernel,
)

ROWS = 16
"""Positions per tile: with 64 columns eight numbers for each of 128 threads."""

COLUMNS = 128
"""Channels per tile of the token shift."""

GROUPS = 64
"""Programs that share the rows in a backward kernel, per head or per ``COLUMNS`` channels."""

FLAT = 1024
"""Numbers per program where no row matters."""


def _groups(total: int) -> tuple[int, int]:
    """Programs along the rows and tiles for each."""
    tiles = triton.cdiv(total, ROWS)
    blocks = triton.cdiv(tiles, GROUPS)
    return triton.cdiv(tiles, blocks), blocks


@torch.library.custom_op("wishbone::mix", mutates_args=())
def mix(h: Tensor, before: Tensor, mix: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """``mix_reference``."""
    outs = _fake_mix(h, before, mix, dtype)
    batch, length, width = h.shape
    grid = (triton.cdiv(batch * length, ROWS), triton.cdiv(width, COLUMNS))
    with torch.cuda.device_of(h):
        mix_kernel[grid](
            h.contiguous(), before.contiguous(), mix.contiguous(), tuple(outs),
            batch * length, length, width,
            COUNT=len(mix), SHIFT=before.ndim == 2, ROWS=ROWS, COLUMNS=COLUMNS,
        )  # fmt: skip
    return outs


@mix.register_fake
def _fake_mix(h, before, mix, dtype):
    return [h.new_empty(h.shape, dtype=dtype) for _ in range(mix.shape[0])]


@torch.library.custom_op("wishbone::mix_backward", mutates_args=())
def _mix_backward(
    h: Tensor, before: Tensor, mix: Tensor, douts: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    dh, dbefore, dmix = _fake_mix_backward(h, before, mix, douts)
    batch, length, width = h.shape
    groups, blocks = _groups(batch * length)
    shares = h.new_empty((groups, *mix.shape), dtype=torch.float32)
    with torch.cuda.device_of(h):
        mix_backward_kernel[groups, triton.cdiv(width, COLUMNS)](
            h.contiguous(), before.contiguous(), mix.contiguous(),
            tuple(x.contiguous() for x in douts), dh, dbefore, shares,
            batch * length, length, width, blocks,
            COUNT=len(mix), SHIFT=before.ndim == 2, ROWS=ROWS, COLUMNS=COLUMNS,
            PADDED=triton.next_power_of_2(len(mix)),
        )  # fmt: skip
    return dh, dbefore, dmix.copy_(shares.sum(0))


@_mix_backward.register_fake
def _fake_mix_backward(h, before, mix, douts):
    return h.new_empty(h.shape), before.new_empty(before.shape), mix.new_empty(mix.shape)


def _keep_mix(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3])


def _differentiate_mix(ctx: Any, douts: list[Tensor]) -> tuple[Tensor | None, ...]:
    return (*_mix_backward(*ctx.saved_tensors, douts), None)


mix.register_autograd(_differentiate_mix, setup_context=_keep_mix)


@torch.library.custom_op("wishbone::prepare", mutates_args=())
def prepare(
    k: Tensor, low_w: Tensor, low_a: Tensor,
    w0: Tensor, a0: Tensor, k_k: Tensor, k_a: Tensor,
    heads: int, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``prepare_reference``."""
    outputs = _fake_prepare(k, low_w, low_a, w0, a0, k_k, k_a, heads, dtype)
    total, size = k.shape[0] * k.shape[1], k.shape[2] // heads
    inputs = [x.contiguous() for x in (k, low_w, low_a, w0, a0, k_k, k_a)]
    with torch.cuda.device_of(k):
        prepare_kernel[triton.cdiv(total, ROWS), heads](
            *inputs, *outputs, total, heads, DECAY, N=size, ROWS=ROWS
        )
    return outputs


@prepare.register_fake
def _fake_prepare(k, low_w, low_a, w0, a0, k_k, k_a, heads, dtype):
    batch, length, width = k.shape
    shape = (batch, length, heads, width // heads)
    g = k.new_empty(shape, dtype=torch.float32)
    return g, *(k.new_empty(shape, dtype=dtype) for _ in range(3))


@torch.library.custom_op("wishbone::prepare_backward", mutates_args=())
def _prepare_backward(
    k: Tensor, low_w: Tensor, low_a: Tensor,
    w0: Tensor, a0: Tensor, k_k: Tensor, k_a: Tensor,
    dg: Tensor, dkey: Tensor, dreads: Tensor, dwrites: Tensor,
    heads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Of k, low_w, low_a, and of the four vectors together, [4, D] in float32."""
    *grads, vectors = _fake_prepare_backward(
        k, low_w, low_a, w0, a0, k_k, k_a, dg, dkey, dreads, dwrites, heads
    )
    total, size = k.shape[0] * k.shape[1], k.shape[2] // heads
    groups, blocks = _groups(total)
    shares = vectors.new_empty((groups, *vectors.shape))
    inputs = [x.contiguous() for x in (k, low_w, low_a, w0, a0, k_k, k_a)]
    arriving = [x.contiguous() for x in (dg, dkey, dreads, dwrites)]
    with torch.cuda.device_of(k):
        prepare_backward_kernel[groups, heads](
            *inputs, *arriving, *grads, shares, total, heads, DECAY, blocks, N=size, ROWS=ROWS
        )
    return (*grads, shares.sum(0))


@_prepare_backward.register_fake
def _fake_prepare_backward(
    k, low_w, low_a, w0, a0, k_k, k_a, dg, dkey, dreads, dwrites, heads
):  # fmt: skip
    vectors = k.new_empty((4, k.shape[2]), dtype=torch.float32)
    return (*(x.new_empty(x.shape) for x in (k, low_w, low_a)), vectors)


def _keep_prepare(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.heads = inputs[7]


def _differentiate_prepare(ctx: Any, *arriving: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    *grads, vectors = _prepare_backward(*tensors, *arriving, ctx.heads)
    return (*grads, *_like(vectors, tensors[3:]), None, None)


prepare.register_autograd(_differentiate_prepare, setup_context=_keep_prepare)


@torch.library.custom_op("wishbone::finish", mutates_args=())
def finish(
    y: Tensor, r: Tensor, key: Tensor, v: Tensor, gate: Tensor,
    r_k: Tensor, weight: Tensor, bias: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """``finish_reference``."""
    out = r.new_empty(r.shape)
    total, (heads, size) = r.shape[0] * r.shape[1], r_k.shape
    inputs = [x.contiguous() for x in (y, r, key, v, gate, r_k, weight, bias)]
    with torch.cuda.device_of(r):
        finish_kernel[triton.cdiv(total, ROWS), heads](
            *inputs, out, total, heads, eps, N=size, ROWS=ROWS
        )
    return out


@finish.register_fake
def _fake_finish(y, r, key, v, gate, r_k, weight, bias, eps):
    return r.new_empty(r.shape)


@torch.library.custom_op("wishbone::finish_backward", mutates_args=())
def _finish_backward(
    y: Tensor, r: Tensor, key: Tensor, v: Tensor, gate: Tensor,
    r_k: Tensor, weight: Tensor, bias: Tensor, dout: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Of y, r, key, v, gate, and of the three vectors together, [3, D] in float32."""
    *grads, vectors = _fake_finish_backward(y, r, key, v, gate, r_k, weight, bias, dout, eps)
    total, (heads, size) = r.shape[0] * r.shape[1], r_k.shape
    groups, blocks = _groups(total)
    shares = vectors.new_empty((groups, *vectors.shape))
    inputs = [x.contiguous() for x in (y, r, key, v, gate, r_k, weight, bias, dout)]
    with torch.cuda.device_of(r):
        finish_backward_kernel[groups, heads](
            *inputs, *grads, shares, total, heads, eps, blocks, N=size, ROWS=ROWS
        )
    return (*grads, shares.sum(0))


@_finish_backward.register_fake
def _fake_finish_backward(y, r, key, v, gate, r_k, weight, bias, dout, eps):
    vectors = r.new_empty((3, r.shape[2]), dtype=torch.float32)
    return (*(x.new_empty(x.shape) for x in (y, r, key, v, gate)), vectors)


def _keep_finish(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.eps = inputs[8]


def _differentiate_finish(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    *grads, vectors = _finish_backward(*tensors, dout, ctx.eps)
    return (*grads, *_like(vectors, tensors[5:]), None)


finish.register_autograd(_differentiate_finish, setup_context=_keep_finish)


@torch.library.custom_op("wishbone::squared_relu", mutates_args=())
def squared_relu(x: Tensor) -> Tensor:
    """``squared_relu_reference``."""
    out = x.new_empty(x.shape)
    with torch.cuda.device_of(x):
        squared_relu_kernel[(triton.cdiv(x.numel(), FLAT),)](
            x.contiguous(), out, x.numel(), SIZE=FLAT
        )
    return out


@torch.library.custom_op("wishbone::squared_relu_backward", mutates_args=())
def _squared_relu_backward(x: Tensor, dout: Tensor) -> Tensor:
    dx = x.new_empty(x.shape)
    with torch.cuda.device_of(x):
        squared_relu_backward_kernel[(triton.cdiv(x.numel(), FLAT),)](
            x.contiguous(), dout.contiguous(), dx, x.numel(), SIZE=FLAT
        )
    return dx


squared_relu.register_fake(lambda x: x.new_empty(x.shape))
_squared_relu_backward.register_fake(lambda x, dout: x.new_empty(x.shape))
squared_relu.register_autograd(
    lambda ctx, dout: _squared_relu_backward(*ctx.saved_tensors, dout),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def _like(vectors: Tensor, parameters: tuple[Tensor, ...]) -> list[Tensor]:
    """The rows of ``vectors`` in the shapes and types of the parameters."""
    return [x.view_as(p).to(p.dtype) for x, p in zip(vectors, parameters, strict=True)]
