"""Suite of token mixers and feed-forward parts, the halves of a block.

A half is put into a stack of two blocks and has to pass the suite of backbones there. Before that
it is called by itself, so that a fault is named where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wishbone.core.config.blocks import STACK
from wishbone.core.config.schema import NONE, filled
from wishbone.core.contract.backbone import Backbone
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.registry.loader import registry
from wishbone.core.testing import backbone_suite
from wishbone.core.testing.case import build, same_state
from wishbone.core.testing.common import Check, Skipped, Violation, near, small_config
from wishbone.core.testing.half_alone import CHECKS, Alone, reading_of

WIDTH = 48
"""D of the stack: three heads of 16, four of 12."""
OF_BACKBONE = (
    "splits", "causality", "mask_right", "mask_left", "mask_mixed", "mask_all", "state_form",
    "state_file", "state_fork", "state_reorder", "step_in_place", "step_rewritten", "state_size",
    "gradient", "parameters", "adapters", "low_precision", "state_device", "cost",
)  # fmt: skip
"""Checks of backbones that a stack with this half has to pass."""
STEPS = 8
"""Positions that the engine is compared over."""
ALLOWED = 1e-4
"""Of an output: two float32 computations in another order differ by 1e-6."""


def checks(kind: str) -> tuple[Check, ...]:
    """Return the checks of halves of ``kind``."""
    own = tuple(Check(name, text, _alone(kind, run)) for name, text, run in CHECKS)
    inside = [check for check in backbone_suite.CHECKS if check.name in OF_BACKBONE]
    engine = Check("engine", "A step in C++ gives the numbers of the half.", _engine(kind))
    return (*own, engine, *(Check(c.name, c.sentence, _in_stack(kind, c)) for c in inside))


def stack_config(kind: str, cls: Any, config: Any) -> tuple[Any, Any]:
    """Return the class of the stack, and the configuration of two blocks with that half alone."""
    stack = registry().get("backbone", STACK)
    stack = _reading(stack) if cls.ids else stack
    halves: dict[str, Any] = {"mixer": NONE, "ffn": NONE, kind: filled(kind, cls, config)}
    if cls.reads:
        halves["mixer" if kind == "ffn" else "ffn"] = _publisher(cls.reads)
    return stack, stack.Config(width=WIDTH, layers=2, **halves)


def _reading(stack: Any) -> Any:
    """Return a stack that is given vectors alone, and told what they read by ``reading_of``."""

    def forward(
        self: Any, x: Any, state: Any = None, *, mask: Any = None, reading: Any = None
    ) -> Any:
        return stack.forward(self, x, state, mask=mask, reading=reading or reading_of(x))

    def step_(self: Any, x: Any, state: Any) -> Any:
        return stack.step_(self, x, state, reading_of(x))

    return type("Reading", (stack,), {"forward": forward, "step_": step_})


def _publisher(names: tuple[str, ...]) -> Any:
    """Return a small mixer that leaves ``names`` for a half that reads them; "none" without one."""
    for key in registry().names("mixer"):
        cls = registry().get("mixer", key)
        if set(names) <= {*cls.publishes, *cls.offers}:
            return filled("mixer", cls, small_config(cls))
    return NONE


def _in_stack(kind: str, check: Check) -> Callable[[Any, Any, str | None], str | None]:
    def run(cls: Any, config: Any, module: str | None) -> str | None:
        return check.run(*stack_config(kind, cls, config), module)

    return run


def _engine(kind: str) -> Callable[..., str]:
    def run(cls: Any, config: Any, module: str | None) -> str:
        if cls.recipe is None:
            raise Skipped("it has no recipe")
        slow, fast = (build(*stack_config(kind, cls, config), torch.float32) for _ in range(2))
        try:
            fast.accelerate("native")
        except CapabilityError as error:
            if isinstance(error.__cause__, ValueError):
                raise Violation(f"its recipe is refused: {error.__cause__}") from error
            raise Skipped(f"nothing can be built here: {error.__cause__}") from error
        return _same_steps(slow, fast)

    return run


@torch.no_grad()
def _same_steps(slow: Backbone, fast: Backbone) -> str:
    """Compare the steps of two backbones with the same weights, and their states."""
    worst = 0.0
    for batch in (1, 3):
        random = torch.Generator().manual_seed(batch)
        states = slow.init_state(batch), fast.init_state(batch)
        for position in range(STEPS):
            x = torch.randn(batch, 1, WIDTH, generator=random)  # [B, 1, D]
            y, expected = fast.step_(x, states[1]), slow.step_(x, states[0])  # [B, 1, D]
            what = f"the recipe is another function than forward: step {position}"
            worst = max(worst, near(y, expected, ALLOWED, what))
        same_state(states[1], states[0], ALLOWED, "the recipe leaves another state than forward")
    return f"differs by {worst:.1e}"


def _alone(kind: str, check: Callable[[Alone], str]) -> Callable[..., str]:
    def run(cls: Any, config: Any, module: str | None) -> str:
        return check(Alone(*stack_config(kind, cls, config), cls))

    return run
