"""One block of a stack: a norm before each half, and the sum with what went in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.stack.mixer import Call, Mixer

LENGTH = "length"
"""Name of a stack's counter of positions [B], kept where a half wants it."""


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); one half may be missing.

    The names of its modules are those that a stack gives: engines and files of weights know them.
    """

    def __init__(self, halves: Sequence[tuple[str, nn.Module, str, Mixer]], dropout: float) -> None:
        """``halves`` are (name of the norm, norm, name of the half, half)."""
        super().__init__()
        self.pairs = [(norm_name, name) for norm_name, _, name, _ in halves]
        """Names of the norm and the half, in order."""
        for norm_name, norm, name, half in halves:
            self.add_module(norm_name, norm)
            self.add_module(name, half)
        self.drop = nn.Dropout(dropout)
        self.name_state()

    def name_state(self) -> None:
        """Take the names of the state from the halves; again where one remembers more than before.

        Raises ``ConfigError`` for a name that both have.
        """
        halves = self.halves()
        self.parts = [tuple(state_of(half)) for half in halves]
        """Names of the state of each half."""
        self.memory = tuple(name for half in halves for name in half.memory)
        """Names of what recurs, in a type of its own."""
        names = self.state_names = tuple(name for part in self.parts for name in part)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"Both halves of a block remember something by the name '{twice[0]}'.",
                " and ".join(type(half).__name__ for half in halves),
                "Rename it in one of them; names are told apart within a block.",
            )

    def halves(self) -> list[Mixer]:
        """Return the halves in order."""
        return [getattr(self, name) for _, name in self.pairs]

    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D] and the state of this block -> y [B, T, D] and the state after."""
        after: State = {}
        for (norm, name), names in zip(self.pairs, self.parts, strict=True):
            own = {part: state[part] for part in names}
            y, new = getattr(self, name)(getattr(self, norm)(x), own, call)  # [B, T, D]
            for part in names:
                kind = new[part].dtype if part in self.memory else state[part].dtype
                after[part] = new[part].to(kind)
            x = x + self.drop(y)  # [B, T, D]
        return x, after

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] and the state of this block -> y [B, D] and the state after."""
        after: State = {}
        for (norm, name), names in zip(self.pairs, self.parts, strict=True):
            own = {part: state[part] for part in names}
            y, new = getattr(self, name).step(getattr(self, norm)(x), own, call)  # [B, D]
            after |= new
            x = x + self.drop(y)  # [B, D]
        return x, after


def state_of(half: Mixer) -> State:
    """Return the first state of one row, without memory: names, shapes and types."""
    return half.init_state(1, torch.device("meta"), torch.float32)
