"""The second step of an A/B: recordings that are not judged yet are, by a panel of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wishbone.core.contract.extensions.metric import Clip, GenerationMetric, Value
from wishbone.core.evaluate.experiment.items import Item, Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.measure import reference
from wishbone.core.evaluate.measure.clips import read_audio
from wishbone.core.evaluate.measure.score import Panel, Scorer
from wishbone.core.evaluate.statistics import metrics
from wishbone.core.report.progress import progress


def judge_missing(plan: Plan, items: Items, out: Path, panel: Panel) -> dict[str, str]:
    """Judge the recordings that are not judged yet; returns the metrics' signatures.

    The reference's recordings, where there are any, are judged first.
    """
    clips = reference.recordings(plan)
    if clips:
        reference.judge_reference(panel, clips, items, progress)
    signatures = panel.first.signatures
    unjudged = [
        item
        for checkpoint in plan.checkpoints
        for item in items.of(checkpoint.key)
        if item.unjudged(signatures)
    ]
    judge_items(unjudged, items, out, panel)
    return signatures | _generation_signatures(plan)


def judge_items(unjudged: Sequence[Item], items: Items, out: Path, panel: Panel) -> None:
    """Judge recordings below ``out`` by what each lacks, and note the values in ``items``."""
    signatures = panel.first.signatures

    def clip_of(item: Item) -> Clip:
        # an item without any audio has no file
        path = out / item.audio
        audio, rate = read_audio(path) if path.is_file() else (np.zeros(0, np.float32), 1)
        return Clip(item.prompt, item.text, audio, rate)

    def judge(scorer: Scorer, item: Item) -> dict[str, Value]:
        clip = held.get(item.key) or clip_of(item)
        return scorer.values(clip, item.failure, item.unjudged(signatures))

    size = panel.group or max(1, len(unjudged))
    bar = iter(progress(unjudged, "listening"))
    for start in range(0, len(unjudged), size):
        part = unjudged[start : start + size]
        held = {item.key: clip_of(item) for item in part if panel.group and not item.failure}
        panel.listen(list(held.values()))
        for values in panel.map(judge, part):
            item = next(bar)
            items.add(*item.key, {**values, "judged": signatures})
    next(bar, None)


def _generation_signatures(plan: Plan) -> dict[str, str]:
    used = [metrics.create(key, plan.options.get(key)) for key in plan.metrics]
    return {
        metric.info.key: metrics.signature(metric)
        for metric in used
        if isinstance(metric, GenerationMetric)
    }
