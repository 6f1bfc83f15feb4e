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
    """x [B, T, C] -> x + sin^2(alpha x) inverse [B, room + T, C], the first rows not filled.

    None where it does not apply: a gradient, another type, no library.
    """
    suits = x.is_cpu and x.dtype == alpha.dtype == torch.float32 and not torch.is_grad_enabled()
    if not suits or (function := _function()) is None:
        return None
    batch, length, width = x.shape
    x, alpha, inverse = x.contiguous(), alpha.contiguous(), inverse.contiguous()
    made = x.new_empty(batch, room + length, width)
    for one, into in zip(x, made, strict=True):
        places = (t.data_ptr() for t in (one, into[room:], alpha, inverse))
        function(*(ctypes.c_void_p(place) for place in places), length, width)
    return made


@cache
def _function() -> ctypes._CFuncPtr | None:
    try:
        function = library("snake", SOURCE, build=False).snake
    except NativeMissing:
        return None
    function.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 2]
    function.restype = None
    return function
