"""Several adapters on one base: the one that computes now, and those that no checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import RLock
from typing import Any, Protocol

import torch
from torch import Tensor

from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.model.wrapper import BASE
from wishbone.plugins.peft.layers import PARTS


class Switch:
    """Settings of the moment: no part of the model, and new in a copy of it."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.index: int | None = None
        """The adapter that the layers compute with."""
        self.fast: dict[int, Backbone] = {}
        """Plain backbones with an adapter multiplied in, behind an engine."""

    def __deepcopy__(self, memo: Any) -> Switch:
        return Switch()


class Adapted(Protocol):
    """The members of a ``PEFT`` backbone that the hooks below use."""

    base: Backbone
    config: Any
    names: Sequence[str]
    marks: Mapping[str, str]
    _switch: Switch

    def check_mark(self, adapter_mark: str, where: str) -> None:
        """Raise ``CheckpointError`` if an adapter bears another base's mark."""


def merge_rows(
    results: Sequence[tuple[Tensor, State]], indices: Sequence[int], rows: Tensor
) -> tuple[Tensor, State]:
    """Take every row of every tensor from the call that had its adapter.

    ``results`` are y [B, T, D] and the state of one call for each of ``indices``; ``rows`` [B]
    names the adapter of each row.
    """
    y, after = results[0]
    after = dict(after)
    for index, (other, state) in zip(indices[1:], results[1:], strict=True):
        chosen = rows == index  # [B]
        y = _where(chosen, other, y)  # [B, T, D]
        after = {name: _where(chosen, state[name], part) for name, part in after.items()}
    return y, after


def _where(rows: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """rows [B], chosen and other [B, ...] -> [B, ...]."""
    return torch.where(rows.view(-1, *[1] * (other.ndim - 1)), chosen, other)  # [B, ...]


def _is_other(name: str, names: Sequence[str]) -> bool:
    """Tell whether a tensor belongs to one of the adapters ``names``."""
    *_, part, adapter = name.removesuffix(".weight").rsplit(".", 2)
    part_names = {part.partition(".")[0] for parts in PARTS.values() for part in parts}
    return adapter in names and part in part_names


def drop_other_adapters(module: Adapted, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Leave adapters that lie in folders of their own out of a checkpoint."""
    for name in [n for n in state if n.startswith(prefix) and _is_other(n, module.names[1:])]:
        del state[name]


def keep_other_adapters(module: Adapted, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Leave those adapters as they are while a checkpoint is loaded."""
    for name, tensor in module.base.state_dict(prefix=f"{prefix}{BASE}").items():
        if _is_other(name, module.names[1:]):
            state.setdefault(name, tensor)


def after_load(module: Adapted, _: Any) -> None:
    """Drop engines, which read the old weights, and check adapters against the new ones."""
    module._switch.fast = {}
    for name, adapter_mark in module.marks.items():
        module.check_mark(adapter_mark, module.config.adapters[name]["weights"])
