"""Designs of a listening test, and the order in which each listener meets the trials.

A form is the list of trials of one listener. Over the forms every trial is met equally often, at
every place of a session equally often, and with either system first equally often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.statistics.turns import williams

MOST_TRIALS = 40
"""Trials of one listener by default: about twenty minutes."""
BETTER = ("much worse", "worse", "slightly worse", "about the same", "slightly better", "better",
          "much better")  # fmt: skip
"""The steps of ITU-T P.800's comparison category rating, from -3 to 3."""
QUALITY = ("bad", "poor", "fair", "good", "excellent")
"""The steps of ITU-T P.800's absolute category rating, from 1 to 5, and of MUSHRA's scale."""


@dataclass(frozen=True)
class Design:
    """A way to ask listeners."""

    key: str
    question: str
    """Asked on every trial, unless the maker of the test asks another."""
    steps: tuple[str, ...] = ()
    """Words of the answers, in order; none where listeners pick a clip or move a slider."""
    systems: int = 2
    """Systems in a trial; 0 for all of them."""


DESIGNS = {
    design.key: design
    for design in (
        Design("ab", "Which of the two sounds more natural?"),
        Design("cmos", "Compared with A, how natural is B?", BETTER),
        Design("abx", "X is one of the two. Is it A or B?"),
        Design("mos", "How natural does this sound?", QUALITY, systems=1),
        Design("mushra", "How good is each of these?", QUALITY, systems=0),
    )
}


@dataclass(frozen=True)
class Slot:
    """A trial as one listener meets it."""

    item: str
    systems: tuple[str, ...]
    """In the order of the page; of ABX, the third is X."""


def trials(design: Design, systems: Sequence[str], items: Sequence[str]) -> list[Slot]:
    """Every trial of a test: each item by each set of systems, neighbours unlike each other.

    Raises ``UsageError`` where there are too few systems.
    """
    size = design.systems or len(systems)
    if len(systems) < max(1, size) or (design.key == "mushra" and size < 2):
        raise UsageError(
            f"A test of design '{design.key}' compares two systems or more, not {len(systems)}.",
            "wishbone listen make",
            "Give a run with several arms or several folders, or choose --design mos.",
        )
    sets = list(combinations(systems, size))
    # each stretch of as many trials as there are items has every item once, by other systems
    return [
        Slot(item, sets[(turn + place) % len(sets)])
        for turn in range(len(sets))
        for place, item in enumerate(items)
    ]


def forms(
    design: Design, slots: Sequence[Slot], listeners: int, length: int, seed: int
) -> list[list[Slot]]:
    """Forms of ``length`` trials for so many listeners, balanced as the module says."""
    random = np.random.default_rng(seed)
    parity = random.permutation(len(slots)) % 2
    orders = williams(length)
    seats = [list(row) for row in orders]
    random.shuffle(seats)
    turns: Counter[int] = Counter()
    result = []
    for form in range(listeners):
        block = [(form * length + step) % len(slots) for step in range(length)]
        slots_here = []
        for place in seats[form % len(seats)]:
            number = block[place]
            turn = turns[number] + int(parity[number])
            turns[number] += 1
            slots_here.append(Slot(slots[number].item, arranged(design, slots[number], turn)))
        result.append(slots_here)
    return result


def arranged(design: Design, slot: Slot, turn: int) -> tuple[str, ...]:
    """Return a trial's systems in the order of its ``turn``-th showing; ABX's have X behind."""
    rows = williams(len(slot.systems))
    order = tuple(slot.systems[place] for place in rows[turn % len(rows)])
    if design.key != "abx":
        return order
    return (*order, order[(turn // 2) % 2])


def catch_places(length: int, count: int, random: np.random.Generator) -> list[int]:
    """Places among ``length`` trials before which catch trials stand, never the first place."""
    edges = np.linspace(1, length, count + 1)
    return [
        int(random.integers(int(low), max(int(low) + 1, int(high))))
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
