"""Small tensors of which speech has its own (norms, shifts, decays): no matrix, so no factors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.errors import ConfigError
from wishbone.plugins.peft.layers import ends_so

ALL = "*"
"""Every tensor of the base but those of the adapted layers."""


def speech_parameters(
    base: Backbone, endings: Iterable[str], adapted: Collection[str]
) -> list[str]:
    """List the base's parameters that end so and lie in no adapted layer, in its order.

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
    """Put speech's tensors in the places of the base's, for the time of a call."""

    def __init__(self, base: nn.Module, names: Iterable[str], speech: nn.ParameterDict) -> None:
        self.speech = speech
        self.places = []
        for name in names:
            parent, _, leaf = name.rpartition(".")
            self.places.append((parameter_key(name), base.get_submodule(parent), leaf))
        self._originals: list[Any] = []

    def __enter__(self) -> None:
        self._originals = [module._parameters[leaf] for _, module, leaf in self.places]
        for at, module, leaf in self.places:
            module._parameters[leaf] = self.speech[at]

    def __exit__(self, *_: object) -> None:
        for (_, module, leaf), tensor in zip(self.places, self._originals, strict=True):
            module._parameters[leaf] = tensor
        self._originals = []


def parameter_key(name: str) -> str:
    """Write a parameter's name without dots, which a ``ParameterDict`` does not take."""
    return name.replace(".", "/")


def replace_parameters(base: nn.Module, speech: nn.ParameterDict) -> None:
    """Give a copy of the base speech's tensors for good."""
    for at, tensor in speech.items():
        parent, _, leaf = at.replace("/", ".").rpartition(".")
        base.get_submodule(parent)._parameters[leaf] = nn.Parameter(tensor.detach(), False)


def merge_speech_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move the tensors of speech (``...own.NAME``) to the places of the base's, by name."""
    merged = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r"(|.*\.)own\.(.+)", name)
        target = match and f"{match[1]}base.{match[2].replace('/', '.')}"
        if target in tensors:
            merged[target] = merged.pop(name)
    return merged
