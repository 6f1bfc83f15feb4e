"""Small tensors of which speech has its own: what no factor of a matrix can change."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.errors import ConfigError

ALL = "*"
"""Every tensor of the base but those of the adapted layers."""


def find_own(base: Backbone, endings: Iterable[str], adapted: Collection[str]) -> list[str]:
    """Names of the base's parameters that end so and lie in no adapted layer, in its order.

    Raises ``ConfigError`` for an ending that none of them has.
    """
    endings = list(endings)
    others = [n for n, _ in base.named_parameters() if n.rpartition(".")[0] not in adapted]
    lost = [end for end in endings if end != ALL and not any(ends_so(n, end) for n in others)]
    if lost:
        raise ConfigError(
            f"No tensor of {type(base).__name__} beside the adapted layers ends in"
            f" {', '.join(lost)}.",
            "backbone.own",
            f"Write {ALL} for all of them, or endings such as {', '.join(others[:2])}.",
        )
    return [n for n in others if ALL in endings or any(ends_so(n, end) for end in endings)]


class Swap:
    """Puts speech's tensors in the places of the base's, for the time of a call."""

    def __init__(self, base: nn.Module, names: Iterable[str], own: nn.ParameterDict) -> None:
        self.own = own
        self.places = [
            (key(name), base.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
            for name in names
        ]
        self._kept: list[Any] = []

    def __enter__(self) -> None:
        self._kept = [module._parameters[leaf] for _, module, leaf in self.places]
        for at, module, leaf in self.places:
            module._parameters[leaf] = self.own[at]

    def __exit__(self, *_: object) -> None:
        for (_, module, leaf), tensor in zip(self.places, self._kept, strict=True):
            module._parameters[leaf] = tensor
        self._kept = []


def key(name: str) -> str:
    """A parameter's name without dots, which a ``ParameterDict`` does not take."""
    return name.replace(".", "/")


def put(base: nn.Module, own: nn.ParameterDict) -> None:
    """Give a copy of the base speech's tensors for good."""
    for at, tensor in own.items():
        parent, _, leaf = at.replace("/", ".").rpartition(".")
        base.get_submodule(parent)._parameters[leaf] = nn.Parameter(tensor.detach(), False)


def merged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, those of speech (``...own.NAME``) in the places of the base's."""
    made = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r"(|.*\.)own\.(.+)", name)
        target = match and f"{match[1]}base.{match[2].replace('/', '.')}"
        if target in tensors:
            made[target] = made.pop(name)
    return made


def ends_so(name: str, ending: str) -> bool:
    """Whole words only: "key" is the end of "time_mix.key", not of "monkey"."""
    return f".{name}".endswith(f".{ending}")
