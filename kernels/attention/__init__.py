"""One decoding position of a Transformer: attention to a cache, and the operations around it."""

from __future__ import annotations

from wishbone.kernels.wkv7 import triton_missing


def available() -> dict[str, str]:
    """Return form -> why it cannot run on this machine; an empty string where it can."""
    return {"reference": "", "triton": triton_missing()}
