"""WKV-7, the attention of RWKV-7: one function, several ways to compute it."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from wishbone.kernels.wkv7.chunked import wkv7_chunked
from wishbone.kernels.wkv7.packed import packed
from wishbone.kernels.wkv7.reference import wkv7_reference

__all__ = ["available", "wkv7", "wkv7_chunked", "wkv7_reference"]


def wkv7(
    r: Tensor,
    g: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute WKV-7 by the fastest form for these shapes, as ``wkv7_reference`` describes it.

    With ``offsets`` [S + 1] the batch is one row of S sequences, one after another, from
    offsets[i] up to offsets[i + 1]; state is then [S, H, V, K], and there is no mask.
    """
    inputs = (r, g, k, v, a, b)
    if k.is_cuda and k.shape[1] > 1 and not triton_missing():
        from wishbone.kernels.wkv7.triton import unfit, wkv7_triton

        if not unfit(*inputs):
            return wkv7_triton(*inputs, state, mask, offsets)
    if offsets is not None:
        return packed(wkv7, inputs, state, offsets)
    if k.shape[1] == 1:
        return wkv7_reference(*inputs, state, mask)
    return wkv7_chunked(*inputs, state, mask)


@cache
def triton_missing() -> str:
    """Return why the Triton kernels cannot run on this machine; empty where they can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        from wishbone.kernels.wkv7.triton import why_not
    except ImportError as error:
        return f"{error}: install triton"
    return why_not()


# torch.compiler.assume_constant_result does just this, but imports the compiler: four seconds
triton_missing._dynamo_marked_constant = True


def available() -> dict[str, str]:
    """Return form -> why it cannot run on this machine; an empty string where it can."""
    return {"reference": "", "chunked": "", "triton": triton_missing()}
