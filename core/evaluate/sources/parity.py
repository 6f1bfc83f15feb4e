"""Token parity: whether one system draws the same codes on every engine, in a batch and streamed.

The arms speak the same prompts from the same seeds, so each code frame has its twin. Numbers that
differ in their last bits change a code only where two candidates are that close; from there on the
sequences go their own ways, so that what is the same before tells more than what is after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from wishbone.core.contract.errors import DataError
from wishbone.core.evaluate.experiment.arms import Arm
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.result_parts import Parity
from wishbone.core.evaluate.sources.speak_missing import codes_file


def parity(items: Items, plan: Plan, out: Path) -> list[Parity] | None:
    """Every arm that is the baseline's system beside it; None where none is.

    Raises ``DataError`` for a file of codes that is damaged.
    """
    baseline, *others = plan.arms
    twins = [arm for arm in others if _same_system(arm, baseline)]
    results = [
        compared(arm.key, baseline.key, list(_pairs(items, plan, (baseline, arm), out)))
        for arm in twins
    ]
    return [result for result in results if result.items] or None


def compared(arm: str, baseline: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Parity:
    """Count what is the same in pairs of code frames, each [T, Q] with lengths of their own."""
    frames = matched = before = alike = 0
    firsts = []
    for one, other in pairs:
        shortest, longest = sorted((len(one), len(other)))
        same = (one[:shortest] == other[:shortest]).all(axis=1)  # [T]
        differing = np.flatnonzero(~same)
        # one that ends earlier differs where it ends
        first = int(differing[0]) if len(differing) else shortest
        frames, matched, before = frames + longest, matched + int(same.sum()), before + first
        if len(differing) or shortest < longest:
            firsts.append(first)
        else:
            alike += 1
    return Parity(
        arm=arm,
        baseline=baseline,
        items=len(pairs),
        alike=alike,
        frames=frames,
        matched=matched,
        before=before,
        first=min(firsts, default=None),
        middle=float(median(firsts)) if firsts else None,
    )


def _same_system(arm: Arm, other: Arm) -> bool:
    """True for two arms of one system that only differ in their manner of speaking."""
    configs = [[dict(c.config) for c in each.checkpoints] for each in (arm, other)]
    return not arm.is_outside and configs[0] == configs[1]


def _pairs(
    items: Items, plan: Plan, arms: tuple[Arm, Arm], out: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The code frames of both arms, [T, Q], of every item that both have."""
    for one, other in zip(arms[0].checkpoints, arms[1].checkpoints, strict=True):
        for prompt in plan.prompts:
            for repeat in range(plan.seeds):
                names = [items.get(c.key, prompt.key, repeat).audio for c in (one, other)]
                codes = [_read(out / codes_file(name)) if name else None for name in names]
                if codes[0] is not None and codes[1] is not None:
                    yield codes[0], codes[1]


def _read(path: Path) -> np.ndarray | None:
    """Code frames [T, Q]; None without the file, which older runs lack."""
    if not path.is_file():
        return None
    try:
        codes = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"The file of codes is damaged: {error}.",
            str(path),
            "Remove it; the result then says nothing about the codes of that item.",
        ) from error
    return codes
