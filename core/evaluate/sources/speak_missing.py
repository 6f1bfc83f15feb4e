"""The first step of an A/B: what is missing is spoken, and what arms cost is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from wishbone.core.config.text_files import read_json
from wishbone.core.contract.atomic import replacing, write_text
from wishbone.core.contract.engines import parse_engine
from wishbone.core.contract.errors import DataError
from wishbone.core.evaluate.experiment import budget, generate, timing
from wishbone.core.evaluate.experiment.arm_engines import (
    EngineChoice,
    accelerate_alike,
    refuse_mixed,
)
from wishbone.core.evaluate.experiment.arms import Arm
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.measure import speed
from wishbone.core.evaluate.record import read_record, record_json
from wishbone.core.evaluate.result import Costs, Memory, Prompt
from wishbone.core.evaluate.sources import openai_server, recordings
from wishbone.core.evaluate.sources.openai_server import OpenAIServer
from wishbone.core.evaluate.sources.outside import outside_of
from wishbone.core.evaluate.sources.recordings import Recordings
from wishbone.core.evaluate.sources.source import Source, Spoken, SystemSource
from wishbone.core.report.json_file import as_text
from wishbone.core.report.progress import progress, say
from wishbone.core.speak.speaker import build
from wishbone.core.system.system import System


class Speakers:
    """The systems of a plan, with their engines, ready to speak."""

    def __init__(self, plan: Plan, items: Items) -> None:
        """Build and warm up; raises ``UsageError`` where ``items`` were spoken by other engines."""
        self.systems = {
            checkpoint.key: build(checkpoint.config)
            for checkpoint in plan.checkpoints
            if outside_of(checkpoint.config) is None
        }
        self.choice = _engines(plan, self.systems)
        refuse_mixed(items, self.choice.used, list(self.systems))
        used = dict.fromkeys(self.choice.used.values())
        if used:
            say(f"engine of the decoding steps: {', '.join(used)}")
        self.sources = _sources(plan, self.systems)
        # steps of small models are too short to share, and results must not depend on cores
        torch.set_num_threads(1)
        for source in self.sources.values():
            for voice in plan.voices or [plan.voice]:
                source.prepare(voice)

    def speak(self, plan: Plan, items: Items, out: Path) -> None:
        """Speak what is missing of a plan's prompts."""
        for prompt, repeat, orders in progress(missing(plan, items), "speaking"):
            speak_prompt(plan, items, out, prompt, repeat, orders, self.sources)


def missing(plan: Plan, items: Items) -> list[tuple[Prompt, int, list[list[str]]]]:
    """Prompt, repeat and order of the checkpoints, of all that is to be spoken."""
    return [
        (prompt, repeat, orders)
        for prompt, repeat, orders in timing.schedule(plan)
        if any(
            timing.unspoken(items.get(key, prompt.key, repeat), plan.seed_of(prompt, repeat))
            for key in orders[0]
        )
    ]


def speak_missing(plan: Plan, items: Items, out: Path) -> Costs:
    """Speak the items that are missing; measure budgets, speed and memory once."""
    path = out / "measured.json"
    if path.exists() and not missing(plan, items):
        costs = read_costs(path)
        # files from before engines could be chosen name none
        eager = {arm.key: "eager" for arm in plan.arms}
        return replace(costs, engines=costs.engines or eager, engine_note=costs.engine_note or "")
    speakers = Speakers(plan, items)
    speakers.speak(plan, items, out)
    costs = _costs(plan, speakers.systems, speakers.choice)
    write_text(path, as_text(record_json(costs)))
    return costs


def read_costs(path: Path) -> Costs:
    """Read ``measured.json``. Raises ``DataError`` for one that is damaged."""
    do = "Remove that file; the same command measures it again."
    try:
        return read_record(Costs, read_json(path, do))
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"The file is damaged: {error}.", str(path), do) from error


def codes_file(audio: str) -> str:
    """Name of the file of an item's code frames, beside its recording."""
    return f"{audio.removesuffix('.flac')}.npy"


def _engines(plan: Plan, systems: Mapping[str, System]) -> EngineChoice:
    """Give every model its engine: an arm's own where it names one, else the same as the others."""
    own = {c.key: c.manner.engine for c in plan.checkpoints if c.manner.engine}
    alike = {key: system.model for key, system in systems.items() if key not in own}
    engine, weights = parse_engine(plan.engine)
    choice = EngineChoice(engine, weights, {}, "")
    if alike:
        choice = accelerate_alike(alike, plan.engine)
    asked = {key: systems[key].model.accelerate(*parse_engine(name)) for key, name in own.items()}
    return replace(choice, used={key: (choice.used | asked)[key] for key in systems})


def _sources(plan: Plan, systems: Mapping[str, System]) -> dict[str, Source]:
    """The speaker of every checkpoint. Raises ``UsageError`` for recordings that do not fit."""
    sources: dict[str, Source] = {}
    for checkpoint in plan.checkpoints:
        outside = outside_of(checkpoint.config)
        if outside is None:
            sources[checkpoint.key] = SystemSource(systems[checkpoint.key], checkpoint.manner)
        elif outside.url:
            sources[checkpoint.key] = OpenAIServer(outside)
        else:
            available = max(plan.available, len(plan.prompts))
            sources[checkpoint.key] = Recordings(Path(outside.audio), plan.prompts, available)
    return sources


def speak_prompt(
    plan: Plan,
    items: Items,
    out: Path,
    prompt: Prompt,
    repeat: int,
    orders: Sequence[Sequence[str]],
    sources: Mapping[str, Source],
) -> None:
    """One prompt by all checkpoints that have not spoken it, in turn, once for every order.

    The first round's audio is kept; the others are spoken for their times alone. Then each has its
    recording, its code frames where they are known, and a line of facts with nothing judged yet.
    """
    seed = plan.seed_of(prompt, repeat)
    speakers = [
        key for key in orders[0] if timing.unspoken(items.get(key, prompt.key, repeat), seed)
    ]
    for key in speakers:
        sources[key].read_text(prompt.text)
    rounds: dict[str, list[Spoken]] = {key: [] for key in speakers}
    for order in orders:
        for key in [key for key in order if key in rounds]:
            if any(_is_once(one) for one in rounds[key]):
                continue
            others = timing.Others()
            spoken = sources[key].speak(prompt, seed, plan.voice)
            # a source outside is itself one of the others
            used = others.count() if isinstance(sources[key], SystemSource) else None
            generation = replace(spoken.generation, load=timing.load(), others=used)
            rounds[key].append(replace(spoken, generation=generation))
    for key, takes in rounds.items():
        name = f"audio/{key}/{prompt.key}-{repeat}.flac"
        generate.write(out / name, takes[0].audio, takes[0].rate)
        _write_codes(out / codes_file(name), takes[0].codes)
        unjudged = {"text": prompt.text, "audio": name, "heard": None, "judged": {}}
        together = timing.together([take.generation for take in takes])
        items.add(key, prompt.key, repeat, {**unjudged, **record_json(together)})


def _is_once(spoken: Spoken) -> bool:
    """True for an item that is not timed again: it failed, took long, or has no time at all."""
    generation = spoken.generation
    long = (generation.processor or 0.0) > timing.CHEAP
    return bool(generation.error) or long or generation.computing == 0.0


def _write_codes(path: Path, codes: Sequence[Sequence[int]] | None) -> None:
    if not codes:
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(codes, np.int32), allow_pickle=False)  # [T, Q]


def _costs(plan: Plan, systems: Mapping[str, System], choice: EngineChoice) -> Costs:
    """Speed, memory and budget of each system, from its first checkpoint: all cost the same."""
    first = {arm.key: arm.checkpoints[0].key for arm in plan.arms}
    inside = [arm for arm in plan.arms if not arm.is_outside]
    firsts = {arm.key: systems[first[arm.key]] for arm in inside}
    longest = max(plan.prompts, key=lambda prompt: len(prompt.text)).text
    length, memory = {}, {}
    for measurement in progress(["steps", "memory"], "measuring speed and memory against length"):
        if measurement == "steps":
            length = speed.against_length(firsts)
        else:
            memory = {arm.key: _memory(plan, arm, longest, choice) for arm in inside}
    budgets = {arm.key: budget.budget(arm, firsts[arm.key]) for arm in inside}
    engines = {arm.key: choice.used[first[arm.key]] + arm.manner.suffix for arm in inside}
    engines |= {arm.key: _outside_engine(arm) for arm in plan.arms if arm.is_outside}
    return Costs(
        length=length,
        memory=memory,
        budget=budgets,
        unmatched=budget.unmatched(budgets),
        engines={arm.key: engines[arm.key] for arm in plan.arms},
        engine_note=choice.note,
        machine=speed.machine(),
        sample_rate={arm: system.decoder.sample_rate for arm, system in firsts.items()},
    )


def _outside_engine(arm: Arm) -> str:
    origin = outside_of(arm.config)
    return openai_server.ENGINE if origin and origin.url else recordings.ENGINE


def _memory(plan: Plan, arm: Arm, text: str, choice: EngineChoice) -> Memory:
    engine, weights = choice.engine, choice.weights
    if arm.manner.engine:
        engine, weights = parse_engine(arm.manner.engine)
    return speed.peak_memory(arm.config, text, plan.voice, engine, weights)
