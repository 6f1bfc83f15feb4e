"""One decoding position of a Transformer: attention to a cache, and what surrounds it."""

from __future__ import annotations


def available() -> dict[str, str]:
    """Form -> why it cannot run on this machine; an empty string where it can."""
    from wishbone.kernels.wkv7 import triton_missing

    return {"reference": "", "triton": triton_missing()}
