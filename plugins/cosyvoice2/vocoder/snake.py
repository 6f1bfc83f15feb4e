"""The vocoder's activation in one pass of C++, where this machine has a compiler.

PyTorch needs four passes over memory for it, a fifth of the vocoder's time on a CPU.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from wishbone.kernels.linear.build import NativeMissing, library

SOURCE = Path(__file__).parent / "snake.cpp"


def prepare() -> None:
    """Build the library if it never was; a second or two, once for a machine."""
    try:
        library("snake", SOURCE, build=True)
    except NativeMissing:
        return
    _function.cache_clear()


def fused(x: Tensor, alpha: Tensor, inverse: Tensor, room: int) -> Tensor | None:
    """Compute x + sin^2(alpha x) inverse of x [B, T, C] -> [B, room + T, C], first rows unfilled.

    None where it does not apply: a gradient, another type, no library.
    """
    suits = x.is_cpu and x.dtype == alpha.dtype == torch.float32 and not torch.is_grad_enabled()
    if not suits or (function := _function()) is None:
        return None
    batch, length, width = x.shape
    x, alpha, inverse = x.contiguous(), alpha.contiguous(), inverse.contiguous()  # [B, T, C], [C]
    result = x.new_empty(batch, room + length, width)  # [B, room + T, C]
    for source, target in zip(x, result, strict=True):
        addresses = (t.data_ptr() for t in (source, target[room:], alpha, inverse))
        function(*(ctypes.c_void_p(address) for address in addresses), length, width)
    return result


@cache
def _function() -> ctypes._CFuncPtr | None:
    """Load the library's function, if the library was built."""
    try:
        function = library("snake", SOURCE, build=False).snake
    except NativeMissing:
        return None
    function.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 2]
    function.restype = None
    return function
