"""``wishbone ab``: the same prompts from systems that differ in one part, and what that changed.

The run is made of steps that leave files behind, so that it goes on where it was stopped:
recordings (``audio/``), their numbers (``items.jsonl``), the result (``ab.json``, ``report.html``).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.metric import Clip, GenerationMetric, Package
from wishbone.core.evaluate.experiment import config_diff
from wishbone.core.evaluate.experiment.arms import Arm
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan, weights_hash
from wishbone.core.evaluate.measure import held_out_loss
from wishbone.core.evaluate.report.tables import as_text
from wishbone.core.evaluate.statistics import metrics
from wishbone.core.registry.extras import missing_packages
from wishbone.core.registry.loader import registry

SCHEMA = 1
"""Version of what ``ab.json`` holds; grows when a key changes its meaning."""
TRAININGS = "train"
"""Folder below ``--out`` of the trainings that the arms need."""


def run(
    plan: Plan,
    out: Path,
    *,
    allow: bool = False,
    threads: int = 2,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Make, judge, compare and report; returns what ``ab.json`` holds.

    Raises ``ConfigError`` when the arms differ in more than they should, ``UsageError`` when
    ``out`` holds another run, ``MissingExtra`` before any work when a package is missing.
    """
    from wishbone.core.evaluate.report import terminal
    from wishbone.core.evaluate.report.html import write_report
    from wishbone.core.evaluate.statistics.compare import analyse, raw

    begin = time.time()
    config_diff.refuse_unfinished(plan)
    found = config_diff.differences(plan)
    unmeant = config_diff.refuse(found, allow)
    config_diff.refuse_untrained(plan, allow)
    _need_packages(plan)
    items = _claim(plan, out)
    each = len(plan.checkpoints) // len(plan.arms)
    trained = f" of {each} trainings" if each > 1 else ""
    terminal.say(
        f"{len(plan.arms)} arms{trained}, {len(plan.prompts)} prompts, {plan.seeds} seed(s)"
    )
    measured = _make(plan, items, out, terminal.progress)
    heard = held_out_loss.measure(plan, out, terminal.progress)
    signatures = held_out_loss.signatures(plan) if plan.held_out else {}
    signatures |= _judge(plan, items, out, threads, terminal.progress)
    result = {
        "schema": SCHEMA,
        "name": plan.name,
        "about": plan.about,
        "quick": plan.quick,
        "arms": [_about(arm) for arm in plan.arms],
        "factors": plan.factors,
        "varied": plan.vary,
        "confounded": [each.key for each in unmeant],
        "differences": [asdict(each) for each in found],
        "prompts": [asdict(prompt) for prompt in plan.prompts],
        "seeds": plan.seeds,
        "engine_requested": plan.engine,
        "metrics": {key: metrics.facts(m) for key, m in (plan.listening | plan.metrics).items()},
        "signatures": signatures,
        **measured,
        **analyse(items, plan, heard),
        "raw": raw(items, plan, heard),
        "reference": _reference_values(plan, items),
        "reference_folder": str(plan.reference or ""),
        "provenance": _provenance(plan, command, begin),
    }
    write_text(out / "ab.json", as_text(result))
    report = write_report(result, items, out)
    terminal.show(result)
    terminal.say(f"wrote {out / 'ab.json'}, {items.path} and {report}")
    terminal.say(f"took {time.time() - begin:.0f} s; open {report} in a browser to listen")
    return result


def _about(arm: Arm) -> dict[str, Any]:
    """An arm as the result names it."""
    return {
        "key": arm.key,
        "system": arm.system,
        "config": dict(arm.config),
        "levels": dict(arm.levels),
        "checkpoints": [checkpoint.key for checkpoint in arm.checkpoints],
    }


def _need_packages(plan: Plan) -> None:
    """Fail now, not after minutes of work."""
    packages = [Package(name, name) for name in ("matplotlib", "jinja2", "rich")]
    missing_packages(packages, "compare systems and write the report")
    metrics.need_packages(plan.used)


def _claim(plan: Plan, out: Path) -> Items:
    """The items in ``out``, if this run may go on there."""
    mark = out / "run.json"
    said = {"fingerprint": plan.fingerprint(), "name": plan.name}
    if mark.exists():
        before = json.loads(mark.read_text(encoding="utf-8"))
        if before.get("fingerprint") != said["fingerprint"]:
            raise UsageError(
                "The folder holds an A/B of other systems, weights, seeds, reference or engine.",
                str(out),
                "Choose another --out, or remove that folder; --engine eager goes on with a run"
                " from before engines were chosen.",
            )
    elif out.exists() and any(path.name != TRAININGS for path in out.iterdir()):
        raise UsageError(
            "The folder holds something that is no A/B.", str(out), "Choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(mark, as_text(said))
    return Items(out / "items.jsonl")


def _make(plan: Plan, items: Items, out: Path, progress: Callable[..., Any]) -> dict[str, Any]:
    """Speak what is missing; measure budgets, speed and memory once."""
    path = out / "measured.json"
    todo = [
        (prompt, repeat, arm)
        for prompt, repeat, arm in _schedule(plan)
        if items.get(arm, prompt.key, repeat).get("seed") != plan.seed_of(prompt, repeat)
    ]
    if path.exists() and not todo:
        measured = json.loads(path.read_text(encoding="utf-8"))
        # not said before engines could be chosen
        eager = {arm.key: "eager" for arm in plan.arms}
        return {"engines": eager, "engine_note": "", **measured}
    from wishbone.core.evaluate.experiment import budget, generate
    from wishbone.core.evaluate.experiment.arm_engines import accelerate_alike, refuse_mixed
    from wishbone.core.evaluate.measure import speed
    from wishbone.core.evaluate.report import terminal
    from wishbone.core.speak.speaker import build

    built = {each.key: build(each.config) for each in plan.checkpoints}
    choice = accelerate_alike({key: system.model for key, system in built.items()}, plan.engine)
    refuse_mixed(items, choice.used, list(built))
    engines = {arm.key: choice.used[arm.checkpoints[0].key] for arm in plan.arms}
    terminal.say(f"engine of the decoding steps: {', '.join(dict.fromkeys(engines.values()))}")
    generate.warm_up(built, plan.voice)
    for prompt, repeat, arm in progress(todo, "speaking"):
        row, audio = generate.speak(
            built[arm], prompt.text, plan.seed_of(prompt, repeat), plan.voice
        )
        name = f"audio/{arm}/{prompt.key}-{repeat}.flac"
        generate.write(out / name, audio, built[arm].decoder.sample_rate)
        about = {"text": prompt.text, "audio": name, "heard": None, "judged": {}}
        items.add(arm, prompt.key, repeat, {**about, **row})
    # trainings of one arm cost the same
    systems = {arm.key: built[arm.checkpoints[0].key] for arm in plan.arms}
    measured: dict[str, Any] = {}
    for what in progress(["steps", "memory"], "measuring speed and memory against length"):
        if what == "steps":
            measured["length"] = speed.against_length(systems)
        else:
            longest = max(plan.prompts, key=lambda prompt: len(prompt.text)).text
            measured["memory"] = {
                arm.key: speed.peak_memory(
                    arm.config, longest, plan.voice, choice.engine, choice.weights
                )
                for arm in plan.arms
            }
    budgets = {arm.key: budget.budget(arm, systems[arm.key]) for arm in plan.arms}
    measured |= {
        "budget": budgets,
        "unmatched": budget.unmatched(budgets),
        "engines": engines,
        "engine_note": choice.note,
        "machine": speed.machine(),
        "sample_rate": {key: s.decoder.sample_rate for key, s in systems.items()},
    }
    write_text(path, as_text(measured))
    return measured


def _schedule(plan: Plan) -> Any:
    from wishbone.core.evaluate.experiment.generate import schedule

    return schedule(plan)


def _judge(
    plan: Plan, items: Items, out: Path, threads: int, progress: Callable[..., Any]
) -> dict[str, str]:
    """Listen to what nobody has listened to yet; returns the metrics' signatures."""
    from wishbone.core.evaluate.measure.clips import read_audio
    from wishbone.core.evaluate.measure.reference import judge_reference, recordings, unjudged
    from wishbone.core.evaluate.measure.score import Panel, Scorer

    panel = Panel(threads, list(plan.metrics), plan.options)
    clips = recordings(plan)
    if clips:
        judge_reference(panel, clips, items, progress)
    signatures = panel.first.signatures
    keys = [each.key for each in plan.checkpoints]
    todo = [row for key in keys for row in items.of(key) if unjudged(row, signatures)]

    def judge(scorer: Scorer, row: dict[str, Any]) -> dict[str, Any]:
        # an item without any audio has no file
        path = out / row["audio"]
        audio, rate = read_audio(path) if path.is_file() else (np.zeros(0, np.float32), 1)
        clip = Clip(row["prompt"], row["text"], audio, rate)
        return scorer.score(clip, row["failure"], unjudged(row, signatures))

    for row, scored in zip(progress(todo, "listening"), panel.map(judge, todo), strict=True):
        values = {key: scored[key] for key in scored if key not in ("key", "text", "seconds")}
        items.add(row["arm"], row["prompt"], row["repeat"], {**values, "judged": signatures})
    return signatures | _generation_signatures(plan)


def _generation_signatures(plan: Plan) -> dict[str, str]:
    used = [metrics.create(key, plan.options.get(key)) for key in plan.metrics]
    return {
        each.info.key: metrics.signature(each)
        for each in used
        if isinstance(each, GenerationMetric)
    }


def _reference_values(plan: Plan, items: Items) -> dict[str, Any]:
    """What the metrics say of the imitated voice itself; empty without recordings of it."""
    from wishbone.core.evaluate.measure.reference import NAME
    from wishbone.core.evaluate.statistics.compare import own

    once = replace(plan, seeds=1)
    found = {key: own(items, once, NAME, metric) for key, metric in plan.metrics.items()}
    return {key: each for key, each in found.items() if each}


def _provenance(plan: Plan, command: Sequence[str], begin: float) -> dict[str, Any]:
    from wishbone.core.registry.extras import installed
    from wishbone.core.weights.provenance import revision

    keys = plan.used
    brought = [registry().entry("metric", key).distribution for key in keys]
    needed = [package.distribution for package in metrics.packages_of(keys)]
    names = dict.fromkeys(["wishbone-tts", "torch", "numpy", *needed, *brought, "gruut"])
    return {
        "command": list(command),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin)),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "git": revision(),
        "distributions": {name: installed(name) for name in names},
        "weights": {each.key: weights_hash(each.config) for each in plan.checkpoints},
        "trained": {each.key: config_diff.provenance(each) for each in plan.checkpoints},
        "seed": plan.seed,
    }
