"""``wishbone ab``: the same prompts from systems that differ in one part, and what that changed.

The run is made of steps that leave files behind, so that it goes on where it was stopped:
recordings (``audio/``), their numbers (``items.jsonl``), the result (``ab.json``, ``report.html``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wishbone.core.config.text_files import read_json
from wishbone.core.contract.atomic import contents, write_text
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.extensions.metric import Package
from wishbone.core.evaluate.experiment import (
    commitment,
    config_diff,
    timing,
    training_diff,
)
from wishbone.core.evaluate.experiment.arms import Arm
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan, weights_hash
from wishbone.core.evaluate.judging import judge_missing
from wishbone.core.evaluate.measure import held_out_loss, reference
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.prompt_step import PromptStep, gather, known
from wishbone.core.evaluate.prompts import training_texts
from wishbone.core.evaluate.prompts.slices import slices
from wishbone.core.evaluate.report import terminal
from wishbone.core.evaluate.report.html import write_report
from wishbone.core.evaluate.report.item_rows import write_items
from wishbone.core.evaluate.result import (
    SCHEMA,
    ArmFacts,
    Commitment,
    Difference,
    Estimate,
    Provenance,
    Result,
    to_json,
)
from wishbone.core.evaluate.result_parts import SeenPrompts
from wishbone.core.evaluate.sources.parity import parity
from wishbone.core.evaluate.sources.speak_missing import speak_missing
from wishbone.core.evaluate.statistics import metrics
from wishbone.core.evaluate.statistics.agreement import agreement
from wishbone.core.evaluate.statistics.compare import analyse, estimate
from wishbone.core.evaluate.statistics.counts import raw
from wishbone.core.evaluate.statistics.verdict import ALPHA
from wishbone.core.registry.extras import installed, missing_packages
from wishbone.core.registry.loader import registry
from wishbone.core.report.json_file import as_text
from wishbone.core.report.progress import progress, say
from wishbone.core.scale.step import LOGS
from wishbone.core.weights.provenance import revision

TRAININGS = "train"
"""Folder below ``--out`` of the trainings that the arms need."""


def run(
    plan: Plan,
    out: Path,
    *,
    allow: bool = False,
    threads: int = 2,
    command: Sequence[str] = (),
) -> Result:
    """Speak, judge, compare and report; returns what ``ab.json`` holds.

    Raises ``ConfigError`` when the arms differ in more than they should, ``UsageError`` when
    ``out`` holds another run, ``MissingExtra`` before any work when a package is missing.
    """
    begin = time.time()
    differences = config_diff.differences(plan)
    unequal = config_diff.unequal_training(plan, differences)
    items, planned, confounds = claim(plan, out, differences, allow)
    gather(items, plan, out)
    say(_announcement(plan))
    if unequal:
        say(unequal)
    costs = speak_missing(plan, items, out)
    losses = held_out_loss.measure(plan, out, progress)
    panel = Panel(threads, list(plan.metrics), plan.options)
    signatures = held_out_loss.signatures(plan) | judge_missing(plan, items, out, panel)
    on_cpu = not costs.machine.gpu
    timed = timing.summary(plan, items, on_cpu)
    alpha = planned.alpha if planned else ALPHA
    busy = timed.busy if timed else ""
    result = Result(
        schema=SCHEMA,
        name=plan.name,
        about=plan.about,
        quick=plan.quick,
        arms=[arm_facts(arm) for arm in plan.arms],
        factors=plan.factors,
        varied=plan.vary,
        confounded=[difference.key for difference in confounds],
        differences=differences,
        unequal_training=unequal,
        prompts=plan.prompts,
        available=plan.available or None,
        seeds=plan.seeds,
        engine_requested=plan.engine,
        metrics={key: metrics.facts(m) for key, m in (plan.listening | plan.metrics).items()},
        signatures=signatures,
        costs=costs,
        analysis=analyse(items, plan, losses, alpha=alpha, busy=busy),
        raw=raw(items, plan, losses),
        commitment=planned,
        timing=timed,
        reference=_reference_values(plan, items),
        reference_folder=str(plan.reference or ""),
        agreement=agreement(items, plan),
        slices=slices(items, plan),
        parity=parity(items, plan, out),
        seen_prompts=_seen_prompts(plan),
        provenance=_provenance(plan, command, begin),
    )
    write_text(out / "ab.json", as_text(to_json(result)))
    report = write_report(result, items, out)
    table = write_items(plan, items, out)
    terminal.show(result)
    say(f"wrote {out / 'ab.json'}, {items.path}, {table} and {report}")
    say(f"took {time.time() - begin:.0f} s; open {report} in a browser to listen")
    return result


def _seen_prompts(plan: Plan) -> list[SeenPrompts]:
    """Prompts that stand among the texts of the arms' trainings, of all checkpoints of an arm."""
    records = [
        (arm.key, training_diff.provenance(checkpoint))
        for arm in plan.arms
        for checkpoint in arm.checkpoints
    ]
    return training_texts.seen_prompts(plan.prompts, records)


def arm_facts(arm: Arm) -> ArmFacts:
    """An arm as the result names it."""
    return ArmFacts(
        key=arm.key,
        system=arm.system,
        config=dict(arm.config),
        levels=dict(arm.levels),
        checkpoints=[checkpoint.key for checkpoint in arm.checkpoints],
    )


def _announcement(plan: Plan) -> str:
    trainings = len(plan.checkpoints) // len(plan.arms)
    several = f" of {trainings} trainings" if trainings > 1 else ""
    return f"{len(plan.arms)} arms{several}, {len(plan.prompts)} prompts, {plan.seeds} seed(s)"


def _need_packages(plan: Plan) -> None:
    """Fail now, not after minutes of work."""
    packages = [Package(name, name) for name in ("matplotlib", "jinja2", "rich")]
    missing_packages(packages, "compare systems and write the report")
    metrics.need_packages(plan.used)


def claim(
    plan: Plan, out: Path, differences: Sequence[Difference], allow: bool
) -> tuple[Items, Commitment | None, list[Difference]]:
    """Begin or go on in ``out`` -> its items, what was planned, and what differs unasked.

    Raises as ``run`` does.
    """
    config_diff.refuse_unfinished(plan)
    confounds = config_diff.refuse_confounds(differences, allow)
    config_diff.refuse_untrained(plan, allow)
    _need_packages(plan)
    items = _claim(plan, out)
    planned = None
    if not plan.quick:
        begun = _begun(plan, known(plan, out))
        planned = commitment.commit(plan, out, begun=begun, allow=allow)
    return items, planned, confounds


def prompt_step(plan: Plan, out: Path, allow: bool, threads: int) -> PromptStep:
    """Begin or go on in ``out`` -> the step that speaks and judges its prompts in parts."""
    claim(plan, out, config_diff.differences(plan), allow)
    return PromptStep(plan, out, threads)


def _claim(plan: Plan, out: Path) -> Items:
    """The items in ``out``, if this run may go on there."""
    mark = out / "run.json"
    fingerprint = plan.fingerprint()
    if mark.exists():
        earlier = read_json(mark, "Choose another --out, or remove that folder.")
        if earlier.get("fingerprint") != fingerprint:
            raise UsageError(
                "The folder holds an A/B of other systems, weights, seeds, reference or engine.",
                str(out),
                "Choose another --out, or remove that folder; --engine eager goes on with a run"
                " from before engines were chosen.",
            )
    elif any(path.name not in (TRAININGS, LOGS) for path in contents(out)):
        raise UsageError(
            "The folder holds something that is no A/B.", str(out), "Choose another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(mark, as_text({"fingerprint": fingerprint, "name": plan.name}))
    return Items(out / "items.jsonl")


def _begun(plan: Plan, items: Items) -> bool:
    """True where an item of the run has been spoken."""
    return any(items.of(checkpoint.key) for checkpoint in plan.checkpoints)


def _reference_values(plan: Plan, items: Items) -> dict[str, Estimate]:
    """The metrics' values of the imitated voice itself; empty without recordings of it."""
    once = replace(plan, seeds=1)
    values = {
        key: estimate(items, once, reference.NAME, metric) for key, metric in plan.metrics.items()
    }
    return {key: value for key, value in values.items() if value is not None}


def _provenance(plan: Plan, command: Sequence[str], begin: float) -> Provenance:
    keys = plan.used
    plugins = [registry().entry("metric", key).distribution for key in keys]
    needed = [package.distribution for package in metrics.packages_of(keys)]
    names = dict.fromkeys(["wishbone-tts", "torch", "numpy", *needed, *plugins, "gruut"])
    return Provenance(
        command=list(command),
        began=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin)),
        ended=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        python=sys.version.split()[0],
        git=revision(),
        distributions={name: installed(name) for name in names},
        weights={c.key: weights_hash(c.config) for c in plan.checkpoints},
        trained={c.key: training_diff.provenance(c) for c in plan.checkpoints},
        seed=plan.seed,
    )
