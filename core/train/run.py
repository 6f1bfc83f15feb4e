"""One call of ``wishbone train``: from the corpus to the exported weights."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wishbone.core.config.compose import Config, weights_folder
from wishbone.core.contract.atomic import replace_folder
from wishbone.core.contract.errors import STOPPED, DataError
from wishbone.core.data.corpora import read_corpus
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.model.device import multiplies_bfloat16_faster
from wishbone.core.system.spec import require
from wishbone.core.train.batches import split_held_out, without_texts
from wishbone.core.train.distributed.processes import ProcessGroup, join_processes
from wishbone.core.train.logger import ReferenceCurve
from wishbone.core.train.loop import Trainer
from wishbone.core.train.optimizer import count_trained
from wishbone.core.train.recipe import RUNNING, Recipe, as_saved, read_recipe
from wishbone.core.train.run_folder import RunFolder
from wishbone.core.train.time_budget import warmup_warning
from wishbone.core.train.truncated_bptt import CAPABILITIES, FEATURE, SegmentTrainer
from wishbone.core.weights.checkpoint import save
from wishbone.core.weights.provenance import hash_files, provenance, start_weights
from wishbone.core.weights.training_record import provenance_entry


def run(config: str, overrides: Sequence[str] = (), change: bool = False) -> int:
    """Begin the run that ``config`` describes, or go on with it; ``STOPPED`` if interrupted.

    A run that is asked to stop in its last step is done all the same; then, too, it is ``STOPPED``,
    so that nothing else is begun.
    """
    recipe, system = read_recipe(config, overrides)
    with join_processes(recipe.device) as group:
        return _train(recipe, system, group, change)


def _train(recipe: Recipe, system: Config, group: ProcessGroup, change: bool) -> int:
    if group.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    training, held_out = corpora(recipe, system)
    run = RunFolder(recipe.out, recipe.keep)
    recipe = replace(recipe, precision=_precision(recipe, run, group))
    # all that can be mistaken comes before the folder is taken, so that nothing is left behind
    if recipe.reference:
        ReferenceCurve.read(recipe.reference)
    digest = hash_files(training.files, training.digests)
    trainer_class = SegmentTrainer if recipe.segment_positions else Trainer
    if recipe.segment_positions:
        require(system, FEATURE, *CAPABILITIES)
    trainer = trainer_class(recipe, system, training, held_out, group, run)
    if group.leads:
        begun_with = start_weights(system)
        run.claim(recipe, digest, change, group.size, trainer.objective.about(), begun_with)
        if begun_with:
            _tell_start(trainer)
    group.barrier()
    if group.leads:
        _print_summary(trainer, training, held_out)
    # AdamW's sums sink below the smallest normal number, where a CPU is a hundred times slower
    torch.set_flush_denormal(True)
    try:
        with _Interruptions() as interrupted:
            finished = trainer.train(interrupted)
    finally:
        torch.set_flush_denormal(False)
    held_out_loss = math.nan
    if finished:
        measured = trainer.evaluated.get(trainer.step)
        held_out_loss = trainer.evaluate() if measured is None else measured
    weights = trainer.weights() if finished else {}
    if group.leads:
        if finished:
            export(trainer, weights, digest, held_out_loss)
            if interrupted.requested:
                print("asked to stop in its last step; the run is done", file=sys.stderr)
        else:
            print(f"stopped at step {trainer.step}; the same command goes on", file=sys.stderr)
    group.barrier()
    return STOPPED if interrupted.requested or not finished else 0


def _precision(recipe: Recipe, run: RunFolder, group: ProcessGroup) -> str:
    """What the recipe says, the run was begun with, or this device is fast at: "bf16" or "fp32"."""
    if recipe.precision != "auto":
        return recipe.precision
    begun = run.begun_with("precision")
    if begun in ("bf16", "fp32"):
        return begun
    return "bf16" if group.broadcast(multiplies_bfloat16_faster(group.device)) else "fp32"


def corpora(recipe: Recipe, system: Config) -> tuple[TokenCorpus, TokenCorpus]:
    """The corpora to train on and to measure on; no text is in both."""
    corpus = read_corpus(recipe.data, system)
    if isinstance(recipe.held_out, str | list):
        held_out = read_corpus(recipe.held_out, system)
        rows = without_texts(corpus, held_out)
        _require_some(corpus, rows, recipe)
        return corpus.take(rows), held_out
    rows, held_out_rows = split_held_out(corpus, float(recipe.held_out))
    _require_some(corpus, rows, recipe)
    return corpus.take(rows), corpus.take(held_out_rows)


def _require_some(corpus: TokenCorpus, rows: np.ndarray, recipe: Recipe) -> None:
    """Raise ``DataError`` where nothing is left to train on."""
    if not len(corpus):
        raise DataError(
            "The data is empty: 0 utterances.",
            str(recipe.data),
            "Give data with utterances; 'wishbone data inspect' counts them.",
        )
    if not len(rows):
        raise DataError(
            f"0 utterances are left to train on: all {len(corpus)} are held out.",
            f"data={recipe.data} held_out={recipe.held_out}",
            "Lower 'held_out', or name other data for it: texts in both are left out.",
        )


def export(
    trainer: Trainer, weights: Mapping[str, Tensor], digest: str, held_out_loss: float
) -> Path | None:
    """The averaged ``weights`` as a folder that a system's ``weights:`` can name."""
    run, recipe = trainer.run, trainer.recipe
    target = _export_folder(run, recipe, trainer.step)
    if target is None:
        return None
    notes = {
        "steps": trainer.step,
        "positions": trainer.positions,
        "positions_before": _positions_before(trainer.system),
        "before": _earlier_trainings(trainer.system),
        "start_weights": start_weights(trainer.system),
        "minutes": round(trainer.elapsed / 60, 2),
        "held_out_loss": held_out_loss,
        "trained_parameters": count_trained(trainer.model),
        "utterances": len(trainer.training),
        "hours": round(float(trainer.training.seconds.sum()) / 3600, 2),
        "recipe": {k: v for k, v in as_saved(recipe).items() if k != "system"},
        "objective": trainer.objective.about(),
        "learned": provenance_entry(
            trainer.system, trainer.training.instruct is not None, recipe.drop.conditions()
        ),
    }
    origin = provenance(trainer.system, data=digest, seeds={"train": recipe.seed}, notes=notes)
    config = {key: value for key, value in trainer.system.items() if key != "weights"}
    for slot in ("backbone", "head"):
        # the weights that the slot began with must not be laid over those it has now
        config[slot] = {key: value for key, value in config[slot].items() if key != "weights"}
    # an export that is replaced stays complete until the new one is
    aside = run.folder / f".{target.name}.new"
    shutil.rmtree(aside, ignore_errors=True)
    save(aside, weights, config | {"weights": "."}, origin)
    replace_folder(aside, target)
    print(f"wrote {target}  held-out loss {held_out_loss:.4f}", file=sys.stderr)
    return target


def _tell_start(trainer: Trainer) -> None:
    """Say aloud that this is no training from nothing: a bundled system brings its weights."""
    steps = sum(stage["steps"] for stage in _earlier_trainings(trainer.system))
    known = f", trained for {steps:,} steps" if steps else ""
    folder = trainer.system.get("weights") or "the weights of its parts"
    print(
        f"this run goes on from trained weights ({folder}{known}): it is fine-tuning."
        " system.weights=null begins with untrained ones",
        file=sys.stderr,
        flush=True,
    )


def _positions_before(system: Mapping[str, Any]) -> int:
    """Positions seen by the weights that a run began with, all trainings together; 0 if unknown."""
    notes = _starting_provenance(system).get("notes") or {}
    try:
        return int(notes["positions"]) + int(notes["positions_before"])
    except (ValueError, KeyError, TypeError):
        return 0


def _earlier_trainings(system: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trainings that made the weights a run began with, first one first; [] if unknown."""
    origin = _starting_provenance(system)
    notes = origin.get("notes") or {}
    if "steps" not in notes:
        return []
    recipe = notes.get("recipe") or {}
    last = {
        "data": origin.get("data"),
        "seeds": origin.get("seeds"),
        "steps": notes["steps"],
        "recipe": {k: v for k, v in recipe.items() if k not in (*RUNNING, "weights")},
    }
    return [*(notes.get("before") or []), last]


def _starting_provenance(system: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of the weights that a run began with; {} if there is none."""
    if not system.get("weights"):
        return {}
    path = weights_folder(system["weights"]) / "provenance.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _export_folder(run: RunFolder, recipe: Recipe, step: int) -> Path | None:
    """The folder to export to: over an earlier step of this run, beside anything else, or None."""
    if not run.export.exists():
        return run.export
    try:
        notes = json.loads((run.export / "provenance.json").read_text(encoding="utf-8"))["notes"]
        before, out = int(notes["steps"]), notes["recipe"]["out"]
    except (OSError, ValueError, KeyError, TypeError):
        before, out = -1, None
    if out == recipe.out and before < step:
        return run.export
    beside = run.export.with_name(f"export-{step:08d}")
    for path in (run.export,) if out == recipe.out and before == step else (beside,):
        if path.exists():
            print(f"{path} exists already", file=sys.stderr)
            return None
    return beside


def _print_summary(trainer: Trainer, training: TokenCorpus, held_out: TokenCorpus) -> None:
    count = sum(p.numel() for p in trainer.model.parameters())
    trained = count_trained(trainer.model)
    if trained < count:
        print(f"{trained / 1e6:.3f} M parameters are trained, the rest frozen", file=sys.stderr)
    if warning := warmup_warning(trainer.schedule.recipe_at(trainer.step)):
        print(f"warning: {warning}", file=sys.stderr)
    epoch = trainer.steps_per_epoch()
    if form := trainer.model.backbone.training_form():
        print(form, file=sys.stderr)
    print(
        f"{count / 1e6:.2f} M parameters; {len(training)} utterances,"
        f" {training.seconds.sum() / 3600:.2f} h, {epoch} steps an epoch;"
        f" {len(held_out)} held out",
        file=sys.stderr,
        flush=True,
    )


class _Interruptions:
    """SIGINT and SIGTERM ask the loop to stop after its step; the second one kills."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def __enter__(self) -> _Interruptions:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("stopping after this step", file=sys.stderr, flush=True)
