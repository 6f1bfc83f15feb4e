"""Several halves side by side: a list under ``mixer`` or ``ffn`` in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.stack.mixer import Call, Mixer, Place
from wishbone.plugins.stack.block import state_of
from wishbone.plugins.stack.plan import Half


@dataclass
class ParallelConfig:
    """The halves."""

    halves: tuple[Half, ...] = ()
    """Class and configuration of each."""
    gated: bool = False
    """True lets every position weigh the answers, number by number; else their mean is taken."""


class Parallel(Mixer):
    """Halves that see the same input, as heads of two sorts; their weighted mean is the answer.

    With a gate, the weights are softmax over the halves of W_g x, one for each number of a
    position; W_g begins at zero, which is the plain mean. An interpretation of WuNeng (arXiv
    2504.19191) and Hymba (arXiv 2411.13676), whose heads of two sorts read the same input: of both
    the abstract was at hand, and how answers are joined is ours.

    State: that of half j under the names ``j.NAME``.
    """

    Config = ParallelConfig

    def __init__(self, config: ParallelConfig, place: Place) -> None:
        super().__init__(config, place)
        self.halves = nn.ModuleList(half.build(place) for half in config.halves)
        self.gate = None
        if config.gated:
            self.gate = nn.Linear(place.width, len(config.halves) * place.width, bias=False)
            nn.init.zeros_(self.gate.weight)
        self.parts = [tuple(state_of(half)) for half in self._each()]
        self.constant = all(half.constant for half in self._each())
        each = enumerate(self._each())
        self.memory = tuple(f"{j}.{name}" for j, half in each for name in half.memory)

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """All of theirs."""
        states = [half.init_state(batch, device, dtype) for half in self._each()]
        return {f"{j}.{name}": t for j, part in enumerate(states) for name, t in part.items()}

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], the weighted mean of all."""
        return self._mean([half.__call__ for half in self._each()], x, state, call)

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D]."""
        return self._mean([half.step for half in self._each()], x, state, call)

    def growth(self) -> Mapping[str, int]:
        """All of theirs."""
        each = enumerate(self._each())
        return {f"{j}.{name}": count for j, half in each for name, count in half.growth().items()}

    def reset_parameters(self) -> None:
        """Those of all; the gate begins as the plain mean."""
        super().reset_parameters()
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)

    def operations(self, context: int = 0) -> int:
        """The sum of theirs."""
        return sum(half.operations(context) for half in self._each())

    def training_form(self) -> str:
        """Those of all, once."""
        forms = dict.fromkeys(half.training_form() for half in self._each())
        return ", ".join(form for form in forms if form)

    def _each(self) -> list[Mixer]:
        return [half for half in self.halves if isinstance(half, Mixer)]

    def _mean(self, calls: list[Any], x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        total, after = torch.zeros_like(x), {}  # [..., D]
        shares: Any = [1 / len(calls)] * len(calls)
        if self.gate is not None:
            shares = self.gate(x).unflatten(-1, (len(calls), -1)).softmax(-2).unbind(-2)  # [..., D]
        for j, (run, names) in enumerate(zip(calls, self.parts, strict=True)):
            y, new = run(x, {name: state[f"{j}.{name}"] for name in names}, call)  # [..., D]
            total = total + shares[j] * y  # [..., D]
            after |= {f"{j}.{name}": tensor for name, tensor in new.items()}
        return total, after
