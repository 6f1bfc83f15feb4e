"""The voice that is imitated, saying the same prompts: what a perfect copy would score.

The recogniser makes errors of its own, and predicted quality has no fixed meaning, so an absolute
number says little without this one beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wishbone.core.evaluate.clips import Clip, read_audio
from wishbone.core.evaluate.items import Items
from wishbone.core.evaluate.plan import Plan
from wishbone.core.evaluate.score import Panel

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
    embed = [panel.first.embed([clip]) for clip in clips]
    vectors = np.stack(embed)
    panel.hear(_mean(vectors))
    todo = [number for number, clip in enumerate(clips) if not items.get(NAME, clip.key, 0)]
    rows = panel.map(lambda scorer, number: scorer.score(clips[number]), todo)
    for number, row in zip(progress(todo, "listening to the reference"), rows, strict=True):
        others = np.delete(vectors, number, axis=0) if len(clips) > 1 else vectors
        row["similarity"] = float(vectors[number] @ _mean(others))
        key = row.pop("key")
        items.add(NAME, key, 0, row)


def _mean(vectors: np.ndarray) -> np.ndarray:
    mean = vectors.mean(0)
    return mean / np.linalg.norm(mean)
