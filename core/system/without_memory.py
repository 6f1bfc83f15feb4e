"""Modules that are built to look at their shapes, with no first values written into them.

PyTorch's device "meta" is made for this, but computing anything there, such as a random value or a
table of sines, imports PyTorch's compiler, which is most of a command's start. Without first values
there is less to compute, and on the CPU memory that was never written to takes no place either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILLS = frozenset(
    getattr(nn.init, name)
    for name in (
        "normal_", "uniform_", "trunc_normal_", "constant_", "ones_", "zeros_", "orthogonal_",
        "xavier_normal_", "xavier_uniform_", "kaiming_normal_", "kaiming_uniform_",
    )
) | {Tensor.normal_, Tensor.uniform_}  # fmt: skip
"""What a module begins with, and no shape depends on."""


class _Unfilled(TorchFunctionMode):
    """Leaves every tensor as it was allocated, where it would be filled with first values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer a call to ``func``, as PyTorch asks a mode to."""
        if func in FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory(device: str) -> Iterator[None]:
    """Build modules on ``device`` for their shapes alone while the block runs.

    Their numbers mean nothing, and no random number of PyTorch's is used up.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device), _Unfilled():
        yield
