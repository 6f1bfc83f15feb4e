"""The matrix-vector product of decoding: one function, several ways to compute it."""

from __future__ import annotations

from wishbone.kernels.linear.build import (
    NativeMissing,
    compiler_missing,
    forget_failures,
    state,
)
from wishbone.kernels.linear.native import SOURCE, Native, Pack, threads
from wishbone.kernels.linear.product import KINDS, dequantized, narrowed, reference

__all__ = [
    "KINDS",
    "Native",
    "NativeMissing",
    "Pack",
    "available",
    "compiler_missing",
    "dequantized",
    "forget_failures",
    "narrowed",
    "reference",
    "threads",
]


def available() -> dict[str, str]:
    """Return form -> why it cannot run on this machine; an empty string where it can."""
    return {"reference": "", "native": state("linear", SOURCE)}
