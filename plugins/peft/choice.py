"""Several adapters on one base: which one computes now, and what stays out of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.model.wrapper import BASE
from wishbone.plugins.peft.layers import PARTS

if TYPE_CHECKING:
    from wishbone.plugins.peft.backbone import PEFT


class Switch:
    """What is set for now: no part of the model, and new in a copy of it."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.index: int | None = None
        """The adapter that the layers compute with."""
        self.fast: dict[int, Backbone] = {}
        """Plain backbones with an adapter multiplied in, behind an engine."""

    def __deepcopy__(self, memo: Any) -> Switch:
        return Switch()


def picked(
    found: Sequence[tuple[Tensor, State]], wanted: Sequence[int], rows: Tensor
) -> tuple[Tensor, State]:
    """Every row of every tensor from the call that had its adapter."""
    y, after = found[0]
    after = dict(after)
    for index, (other, state) in zip(wanted[1:], found[1:], strict=True):
        here = rows == index
        y = _where(here, other, y)
        after = {name: _where(here, state[name], part) for name, part in after.items()}
    return y, after


def _where(here: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(here.view(-1, *[1] * (other.ndim - 1)), chosen, other)


def _is_other(name: str, names: Sequence[str]) -> bool:
    *_, part, adapter = name.removesuffix(".weight").rsplit(".", 2)
    held = {part.partition(".")[0] for parts in PARTS.values() for part in parts}
    return adapter in names and part in held


def without_others(module: PEFT, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Adapters from folders of their own are in no checkpoint."""
    for name in [n for n in state if n.startswith(prefix) and _is_other(n, module.names[1:])]:
        del state[name]


def with_others(module: PEFT, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Loading a checkpoint leaves them as they are."""
    for name, tensor in module.base.state_dict(prefix=f"{prefix}{BASE}").items():
        if _is_other(name, module.names[1:]):
            state.setdefault(name, tensor)


def loaded(module: PEFT, _: Any) -> None:
    """Engines read other weights; adapters from folders may belong to other ones."""
    module._switch.fast = {}
    for name, theirs in module.marks.items():
        module.check_mark(theirs, module.config.adapters[name]["weights"])
