"""An A/B in parts: its prompts spoken and judged by any number of processes.

Part K of N has every N-th prompt, from the K-th, in all arms and repeats. It writes what it knows
into ``parts/items-K-of-N.jsonl`` and recordings where one process writes them; ``gather`` adds both
to the run's items. Costs, statistics and the report are made by the process that gathers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wishbone.core.contract.extensions.metric import AudioMetric
from wishbone.core.evaluate.experiment import timing
from wishbone.core.evaluate.experiment.items import Item, Items, Key
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.judging import judge_items
from wishbone.core.evaluate.measure import reference
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.sources.speak_missing import Speakers
from wishbone.core.evaluate.statistics import metrics
from wishbone.core.scale.part_lock import locked_part
from wishbone.core.scale.step import Done

FOLDER = "parts"
BLOCK = 4
"""Prompts that are spoken, then judged: after a kill so many are judged again at most."""


@dataclass(frozen=True)
class PromptStep:
    """The prompts of an A/B as a step; a piece is a prompt in all arms and repeats."""

    plan: Plan
    folder: Path
    threads: int = 1
    """Recordings that a part judges side by side."""

    def prepare(self) -> None:
        """Load nothing: a part in which nothing is missing needs no model."""

    def run(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """Speak and judge the prompts of a rank that are missing.

        Raises ``UsageError`` where another process is at the same part.
        """
        path = part_file(self.folder, rank, world_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_part(path, rank + 1, world_size):
            yield from self._run(Items(path), rank, world_size)

    def unfinished(self, rank: int = 0, world_size: int = 1) -> int:
        """Return how many prompts of a rank lack a recording or a judgement."""
        return len(self._missing(known(self.plan, self.folder), rank, world_size))

    def _run(self, own: Items, rank: int, world_size: int) -> Iterator[Done]:
        prompts = self._missing(known(self.plan, self.folder), rank, world_size)
        if not prompts:
            return
        speakers = Speakers(self.plan, own)
        panel = Panel(self.threads, list(self.plan.metrics), self.plan.options)
        if clips := reference.recordings(self.plan):
            panel.set_reference(clips)
        signatures = panel.first.signatures
        for begin in range(0, len(prompts), BLOCK):
            block = replace(self.plan, prompts=prompts[begin : begin + BLOCK])
            speakers.speak(block, own, self.folder)
            spoken = {prompt.key: self._items_of(own, prompt) for prompt in block.prompts}
            every = [item for row in spoken.values() for item in row]
            judge_items([i for i in every if i.unjudged(signatures)], own, self.folder, panel)
            for prompt in block.prompts:
                row = self._items_of(own, prompt)
                failures = sum(item.failed for item in row)
                yield Done(prompt.key, len(row), sum(item.seconds for item in row), failures)

    def _missing(self, items: Items, rank: int, world_size: int) -> list[Prompt]:
        return [
            prompt
            for prompt in self.plan.prompts[rank::world_size]
            if not all(
                self._is_complete(item, self.plan.seed_of(prompt, item.repeat))
                for item in self._items_of(items, prompt)
            )
        ]

    def _items_of(self, items: Items, prompt: Prompt) -> list[Item]:
        """Items of a prompt, spoken or not."""
        return [
            items.get(checkpoint.key, prompt.key, repeat)
            for checkpoint in self.plan.checkpoints
            for repeat in range(self.plan.seeds)
        ]

    def _is_complete(self, item: Item, seed: int) -> bool:
        return not timing.unspoken(item, seed) and self._judges <= item.judged.keys()

    @cached_property
    def _judges(self) -> set[str]:
        """Metrics that judge recordings; those that need a reference only where there is one."""
        used = {key: metrics.metric_class(key) for key in self.plan.used}
        return {key for key, kind in used.items() if issubclass(kind, AudioMetric)}


def part_file(out: Path, rank: int, world_size: int) -> Path:
    """Return the file of a part's items."""
    return out / FOLDER / f"items-{rank + 1:05d}-of-{world_size:05d}.jsonl"


def known(plan: Plan, out: Path) -> Items:
    """All that any process knows of a run's items; nothing is written."""
    items = Items(out / "items.jsonl")
    for file in sorted((out / FOLDER).glob("items-*.jsonl")):
        part = Items(file)
        for prompt, repeat, key in _keys(plan):
            mine, theirs = items.get(*key), part.get(*key)
            if _knows_more(theirs, mine, plan.seed_of(prompt, repeat)):
                items.know(theirs.row)
    return items


def gather(items: Items, plan: Plan, out: Path) -> None:
    """Note in a run's ``items`` what parts know and it does not."""
    if not (out / FOLDER).is_dir():
        return
    everything = known(plan, out)
    for _, _, key in _keys(plan):
        row = everything.get(*key).row
        if row != items.get(*key).row:
            items.add(*key, {k: v for k, v in row.items() if k not in ("arm", "prompt", "repeat")})


def _keys(plan: Plan) -> Iterator[tuple[Prompt, int, Key]]:
    for checkpoint in plan.checkpoints:
        for prompt in plan.prompts:
            for repeat in range(plan.seeds):
                yield prompt, repeat, (checkpoint.key, prompt.key, repeat)


def _knows_more(theirs: Item, mine: Item, seed: int) -> bool:
    """Return whether an item of the wanted seed is there and not here, or judged by more there."""
    if timing.unspoken(theirs, seed):
        return False
    return timing.unspoken(mine, seed) or len(theirs.judged) > len(mine.judged)
