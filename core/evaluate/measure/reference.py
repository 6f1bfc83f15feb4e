"""The voice that is imitated, saying the same prompts: what a perfect copy would score.

The recogniser makes errors of its own, and predicted quality has no fixed meaning, so an absolute
number says little without this one beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wishbone.core.contract.metric import Clip, Row
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.measure.clips import read_audio
from wishbone.core.evaluate.measure.score import Panel, Scorer

NAME = "reference"
ENDINGS = (".flac", ".wav", ".ogg", ".opus")


def recordings(plan: Plan) -> list[Clip]:
    """The reference's recordings of the plan's prompts, named by the prompts' keys."""
    if plan.reference is None:
        return []
    found = []
    for prompt in plan.prompts:
        files = [plan.reference / f"{prompt.key}{ending}" for ending in ENDINGS]
        path = next((file for file in files if file.is_file()), None)
        if path is not None:
            found.append(Clip(prompt.key, prompt.text, *read_audio(path)))
    return found


def judge_reference(
    panel: Panel, clips: Sequence[Clip], items: Items, progress: Callable[..., Any]
) -> None:
    """Set the panel's reference voice, and judge the recordings that are not judged yet.

    Each recording's likeness is measured to the mean of the others, so that it is not compared
    with itself.
    """
    panel.set_reference(clips)
    signatures = panel.first.signatures
    todo = [clip for clip in clips if unjudged(items.get(NAME, clip.key, 0), signatures)]

    def judge(scorer: Scorer, clip: Clip) -> dict[str, Any]:
        missing = unjudged(items.get(NAME, clip.key, 0), signatures)
        return scorer.score(clip, keys=missing)

    rows = panel.map(judge, todo)
    for clip, row in zip(progress(todo, "listening to the reference"), rows, strict=True):
        row.pop("key")
        items.add(NAME, clip.key, 0, {**row, "judged": signatures})


def unjudged(row: Row, signatures: Mapping[str, str]) -> list[str]:
    """Keys of the metrics that have not judged an item yet, or not with the same signature."""
    before = row.get("judged") or {}
    return [key for key, line in signatures.items() if before.get(key) != line]
