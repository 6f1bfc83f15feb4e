"""A backbone around a backbone: the common part of all adapters.

::

    backbone:
      name: ADAPTER                                    # the wrapper
      base: {name: BACKBONE, width: 192, layers: 6}    # the wrapped one, a slot like any other

A wrapped backbone is a backbone, so systems, trainings, comparisons and servers need nothing new.
Its tensors are the base's, under ``base.``, and its own. Weights of the plain system load into it:
names are mapped, and the wrapper begins with its own first values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wishbone.core.config.schema import nested, parse_nested
from wishbone.core.contract.backbone import Backbone, Caps, State
from wishbone.core.contract.errors import CapabilityError

BASE = "base."
"""Beginning of the names that the base's tensors have in a wrapper."""


class Wrapper(Backbone):
    """A backbone that holds another one, ``base``, frozen; by itself it changes nothing.

    A subclass adds parameters of its own and overrides the methods they change. ``caps`` of an
    instance are the base's; those of the class promise only what every base keeps. Where the
    adapter renames the base's tensors, ``base_names`` is overridden, too.
    """

    @dataclass
    class Config:
        """The backbone to wrap."""

        base: dict[str, Any] = nested("backbone")
        """The backbone inside: its key as ``name``, its fields, and ``weights``, the folder its
        tensors are in where a file of weights holds the wrapper's own alone."""

    begins: ClassVar[bool] = True
    """True where weights of the plain base are enough to begin with: the wrapper's own tensors
    keep their first values then, and ``adopt`` is called."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.base = build_base(config.base).requires_grad_(False)
        self.width = self.base.width
        if self.base.needs_reading:
            raise CapabilityError(
                f"{type(self).__name__} hands vectors on, and its base asks what they read, too.",
                "base of the backbone",
                "Use a base without such halves, or train it without an adapter.",
            )
        self.caps: Caps = self.base.caps  # pyright: ignore[reportIncompatibleVariableOverride]
        self.exact, self.memory = self.base.exact, self.base.memory
        self.rounding = self.base.rounding
        self.differentiable = self.base.differentiable
        self.base_weights = str(config.base.get("weights") or "")
        """Folder of the base's weights, where the configuration names one."""
        self._plain = tuple(self.base.state_dict())

    def base_names(self) -> dict[str, str]:
        """Name of every tensor of the plain base -> its name in this wrapper."""
        return {name: BASE + name for name in self._plain}

    def own_names(self) -> list[str]:
        """Names of the tensors that the plain base does not have."""
        of_base = set(self.base_names().values())
        return [name for name in self.state_dict() if name not in of_base]

    def adopt(self) -> None:
        """Begin on the base's weights as they are now.

        Called once they were read, or will not be, and there are none of the wrapper's own.
        """

    def plain(self) -> Backbone:
        """The base as it was before it was wrapped, on the same memory: a text model's backbone.

        Raises ``CapabilityError`` where the wrapper has changed the base's layers for good.
        """
        if set(self.base.state_dict()) != set(self._plain):
            raise CapabilityError(
                f"{type(self).__name__} does not tell its base's own weights apart.",
                "Wrapper.plain",
                "Use the base's folder of weights, or a wrapper that changes no layer for good.",
            )
        return self.base

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """The base's."""
        return self.base.init_state(batch, device=device, dtype=dtype)

    def choose_adapter(self, state: State, adapter: str) -> State:
        """By the base, which may be a wrapper, too."""
        return self.base.choose_adapter(state, adapter)

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state, by the base."""
        return self.base(x, state, mask=mask)

    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D], by the base."""
        return self.base.step_(x, state)

    def penalty(self) -> Tensor | None:
        """The base's."""
        return self.base.penalty()

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """The base's; a wrapper that changes what the base computes overrides this."""
        return self.base.accelerate(engine, weights)

    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """The base's."""
        return self.base.state_bytes(length, dtype=dtype)

    @classmethod
    def caps_of(cls, config: Any) -> Caps:
        """The base's."""
        base = parse_nested(config.base, "backbone")
        return base.cls.caps_of(base.config)

    @classmethod
    def count_parameters(cls, config: Any) -> int:
        """The base's; a subclass adds its own."""
        return count_base(config.base)

    def flops_per_position(self, context: int = 0) -> int:
        """The base's; a subclass adds its own."""
        return self.base.flops_per_position(context)

    def training_form(self) -> str:
        """The base's."""
        return self.base.training_form()

    def shardable(self) -> Sequence[nn.Module]:
        """The base's; parameters outside of them are shared out with head and tables."""
        return self.base.shardable()

    def mixers(self) -> Sequence[nn.Module]:
        """The base's, which an adapter may have changed inside."""
        return self.base.mixers()

    def inherit(self, other: Backbone) -> None:
        """The base takes it over."""
        self.base.inherit(other)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """The trained parameters of the base's groups, then the wrapper's own."""
        groups = trainable(self.base.parameter_groups(learning_rate, weight_decay))
        grouped = {id(p) for group in groups for p in group["params"]}
        added = [p for p in self.parameters() if p.requires_grad and id(p) not in grouped]
        decays = {True: weight_decay, False: 0.0}
        for is_matrix, decay in decays.items():
            params = [p for p in added if (p.ndim > 1) == is_matrix]
            groups.append({"params": params, "lr": learning_rate, "weight_decay": decay})
        return [group for group in groups if group["params"]]


def build_base(values: Mapping[str, Any]) -> Backbone:
    """Build the registered backbone that ``{name: KEY, ...fields}`` describes.

    It is on the default device.

    Checked as a slot of a system is, with the same errors. ``weights`` in it is not read here.
    """
    return parse_nested(values, "backbone").build()


def count_base(values: Mapping[str, Any]) -> int:
    """Count the parameters of the backbone that ``values`` describe, building nothing."""
    base = parse_nested(values, "backbone")
    return base.cls.count_parameters(base.config)


def trainable(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups for an optimiser without the parameters that are frozen, and without empty groups."""
    trained = [
        {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
    ]
    return [group for group in trained if group["params"]]


def wrappers(module: nn.Module) -> Iterator[tuple[str, Wrapper]]:
    """Every wrapper in ``module`` that lies in no other, after the prefix of its tensors' names."""
    inside: set[int] = set()
    for name, part in module.named_modules():
        if isinstance(part, Wrapper) and id(part) not in inside:
            inside.update(id(inner) for inner in part.modules())
            yield (f"{name}." if name else ""), part
