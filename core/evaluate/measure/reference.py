"""The voice that is imitated, saying the same prompts: the score of a perfect copy.

The recogniser makes errors of its own, and predicted quality has no fixed meaning, so an absolute
number says little without this one beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from wishbone.core.contract.extensions.metric import Clip, Value
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
    clips = []
    for prompt in plan.prompts:
        files = [plan.reference / f"{prompt.key}{ending}" for ending in ENDINGS]
        path = next((file for file in files if file.is_file()), None)
        if path is not None:
            clips.append(Clip(prompt.key, prompt.text, *read_audio(path)))
    return clips


def judge_reference(
    panel: Panel,
    clips: Sequence[Clip],
    items: Items,
    progress: Callable[[Sequence[Clip], str], Iterable[Clip]],
) -> None:
    """Set the panel's reference voice, and judge the recordings that are not judged yet.

    Each recording's likeness is measured to the mean of the others, so that it is not compared
    with itself.
    """
    panel.set_reference(clips)
    signatures = panel.first.signatures
    unjudged = [clip for clip in clips if items.get(NAME, clip.key, 0).unjudged(signatures)]

    def judge(scorer: Scorer, clip: Clip) -> dict[str, Value]:
        return scorer.values(clip, keys=items.get(NAME, clip.key, 0).unjudged(signatures))

    scores = panel.map(judge, unjudged)
    for clip, values in zip(progress(unjudged, "listening to the reference"), scores, strict=True):
        facts = {"text": clip.text, "seconds": clip.seconds}
        items.add(NAME, clip.key, 0, {**facts, **values, "judged": signatures})
