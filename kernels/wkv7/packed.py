"""Several sequences in one row, for the forms of WKV-7 that take a batch of equal lengths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def packed(
    form: Callable[..., tuple[Tensor, Tensor]],
    inputs: tuple[Tensor, ...],
    state: Tensor | None,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run ``form`` over each sequence of inputs [1, T, H, N]; sequence i is offsets[i : i + 2].

    state [S, H, V, K] of S sequences. Returns y [1, T, H, V] and the states after.
    """
    bounds = offsets.tolist()
    outputs, states = [], []
    for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        before = None if state is None else state[number : number + 1]
        y, after = form(*(x[:, begin:end] for x in inputs), before)
        outputs.append(y)
        states.append(after)
    return torch.cat(outputs, 1), torch.cat(states)
