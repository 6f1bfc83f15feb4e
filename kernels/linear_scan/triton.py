"""The scans of ``rows.py`` on a GPU: the same three functions, one Triton kernel.

``torch.ops.wishbone.vector_scan`` is a custom operator with a fake version, so that
``torch.compile`` sees one operation. Tensors are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wishbone.kernels.linear_scan.reference import NEVER
from wishbone.kernels.linear_scan.triton_scan import scan_kernel

ROWS, COLUMNS, WARPS = 64, 32, 4
"""Positions and channels of a tile, and warps of a program; not chosen by time, for want of a
GPU."""

SEGMENT = 256
"""Positions below which a sequence is not worth cutting: a cut doubles what is read."""


def scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """a and b [B, T, C], start [B, C] -> h [B, T, C] with h_t = a_t h_{t-1} + b_t."""
    return _scan(a, b, start, False, False, 0)


def scan_back(a: Tensor, dh: Tensor) -> Tensor:
    """a and dh [B, T, C] -> the gradient of b [B, T, C]: e_t = dh_t + a_{t+1} e_{t+1}."""
    return _scan(a, dh, torch.zeros_like(a[:, 0]), False, True, 0)


def log_scan(w: Tensor, k: Tensor, start: Tensor) -> Tensor:
    """w and k [B, T, C], start [B, C] -> l_t = log(exp(l_{t-1} + w_t) + exp(k_t)) [B, T, C]."""
    return _scan(w, k, start, True, False, 0)


@torch.library.custom_op("wishbone::vector_scan", mutates_args=())
def _scan(
    a: Tensor, b: Tensor, start: Tensor, logarithms: bool, reverse: bool, segment: int
) -> Tensor:
    """Run one scan; ``segment`` is the number of positions a program walks, 0 for the best."""
    return _run(a.contiguous(), b.contiguous(), start, logarithms, reverse, segment)


@_scan.register_fake
def _fake_scan(a, b, start, logarithms, reverse, segment):
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _run(
    a: Tensor, b: Tensor, start: Tensor, logarithms: bool, reverse: bool, segment: int
) -> Tensor:
    batch, length, channels = b.shape
    out = torch.empty_like(b)
    if not b.numel():
        return out
    segment = segment or _segment(b)
    segments = -(-length // segment)
    grid = batch, segments, -(-channels // COLUMNS)
    sizes = length, channels, segment, NEVER
    constants = {
        "L": ROWS, "C": COLUMNS, "LOG": logarithms, "REVERSE": reverse, "num_warps": WARPS,
    }  # fmt: skip
    starts = start.contiguous()[:, None]  # [B, 1, C]
    with torch.cuda.device_of(b):
        if segments > 1:
            maps = b.new_empty(2, batch, segments, channels)
            scan_kernel[grid](a, b, None, None, *maps, *sizes, MAP=True, **constants)
            ends = _run(*maps, start, logarithms, False, 0)  # [B, segments, C]
            starts = torch.cat([starts, ends[:, :-1]], 1)  # [B, segments, C]
        scan_kernel[grid](a, b, starts, out, None, None, *sizes, MAP=False, **constants)
    return out


def _segment(b: Tensor) -> int:
    """Positions per program: sequences are cut only where programs are too few for the device."""
    batch, length, channels = b.shape
    if b.device.type != "cuda":
        return length
    room = 8 * torch.cuda.get_device_properties(b.device).multi_processor_count
    pieces = min(room // (batch * -(-channels // COLUMNS)), length // SEGMENT)
    return -(-length // (ROWS * pieces)) * ROWS if pieces > 1 else length
