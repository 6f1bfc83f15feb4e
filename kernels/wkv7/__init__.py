"""WKV-7, the attention of RWKV-7: one function, several ways to compute it."""

from __future__ import annotations

from torch import Tensor

from wishbone.kernels.wkv7.chunked import wkv7_chunked
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
) -> tuple[Tensor, Tensor]:
    """The fastest form for these shapes; arguments and results as in ``wkv7_reference``."""
    if k.shape[1] == 1:
        return wkv7_reference(r, g, k, v, a, b, state, mask)
    return wkv7_chunked(r, g, k, v, a, b, state, mask)


def available() -> dict[str, str]:
    """Form -> why it cannot run on this machine; an empty string where it can."""
    return {"reference": "", "chunked": ""}
