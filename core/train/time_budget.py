"""A training that has so many minutes: its steps, fitted to what this machine does in that time.

The first steps are timed, then the number of steps is fixed and written down, so that warm-up and
decay end when the run does, and a run that goes on from a checkpoint keeps to the same schedule.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wishbone.core.contract.atomic import write_text
from wishbone.core.train.recipe import Recipe

FILE = "fitted.json"
TIMED = 10
"""Steps that are timed before the number of steps is fixed."""
SETTLING = 2
"""First steps of a call that are left out: they allocate and compile."""
SHARE = 0.1
"""Share of the time after which it is fixed all the same."""
USED = 0.97
"""Share of the time that is planned for; the rest is for checkpoints and the export."""
FORWARD = 1 / 3
"""Time of a position that is only measured on, over that of one that is trained on."""
WARMUP = 10
"""A fitted run warms up over its tenth part at most."""


@dataclass(frozen=True)
class Fit:
    """The schedule of a run whose time is fixed."""

    minutes: float
    """The time that it was fitted to."""
    from_step: int
    """First step that follows it; those before were the timed ones."""
    steps: int
    warmup_steps: int


class TimeBudget:
    """The steps of a run, known from the start or once some have been timed."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.path = folder / FILE
        self.fit: Fit | None = None
        self._timed: list[float] = []

    def load(self) -> None:
        """Read the fit that an earlier call of this run made for the same time."""
        try:
            fit = Fit(**json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return
        if fit.minutes == self.recipe.max_minutes:
            self.fit = fit

    @property
    def open(self) -> bool:
        """True while steps have still to be timed."""
        return self.recipe.max_minutes > 0 and self.fit is None

    def recipe_at(self, step: int) -> Recipe:
        """The recipe with the steps and the warm-up that hold at ``step``, counted from 0."""
        if self.fit is None or step < self.fit.from_step:
            return self.recipe
        return replace(self.recipe, steps=self.fit.steps, warmup_steps=self.fit.warmup_steps)

    def time(self, seconds: float) -> None:
        """Note the duration of a step."""
        self._timed.append(seconds)

    def due(self, elapsed: float) -> bool:
        """True once enough is known to fix the steps; ``elapsed`` is in seconds, of all calls."""
        late = elapsed >= SHARE * 60 * self.recipe.max_minutes
        return self.open and bool(self._timed) and (late or len(self._timed) >= SETTLING + TIMED)

    def fitting_steps(self, step: int, elapsed: float, held_out_share: float) -> int:
        """Steps of the whole run that end in time, at most the recipe's, at least ``step``.

        ``held_out_share`` is the number of held-out positions over those of one step.
        """
        timed = self._timed[SETTLING:] or self._timed
        seconds = sum(timed) / len(timed)
        measuring = FORWARD * held_out_share * seconds
        every = self.recipe.evaluate_every
        price = seconds + (measuring / every if every else 0.0)
        remaining = USED * 60 * self.recipe.max_minutes - elapsed - measuring
        return max(step, min(self.recipe.steps, step + int(remaining / max(1e-9, price))))

    def fix(self, step: int, steps: int, write: bool) -> Fit:
        """Fix the number of steps, from ``step`` on, and write it down where ``write`` says so."""
        warmup = min(self.recipe.warmup_steps, max(1, steps // WARMUP))
        self.fit = Fit(self.recipe.max_minutes, step, steps, warmup)
        if write:
            write_text(self.path, json.dumps(asdict(self.fit)) + "\n")
        return self.fit


def warmup_warning(recipe: Recipe) -> str:
    """A sentence about a warm-up that the run is too short for, or ""."""
    if recipe.warmup_steps < recipe.steps:
        return ""
    return (
        f"the warm-up of {recipe.warmup_steps} steps is no shorter than the run of {recipe.steps}:"
        " the learning rate never gets to its highest; write a smaller warmup_steps"
    )
