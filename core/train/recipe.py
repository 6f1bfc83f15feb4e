"""The fields of a training YAML, and reading one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from wishbone.core.config.compose import Config, compose, merge
from wishbone.core.config.schema import structured
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.part import (
    Count,
    Dropout,
    NonNegative,
    OneOf,
    Positive,
    Range,
    Seed,
    Share,
    Size,
)
from wishbone.core.system.spec import resolve
from wishbone.core.train.condition_dropout import Drop
from wishbone.core.train.objectives import resolve_objective


@dataclass
class Recipe:
    """One training run. Everything but ``system``, ``data`` and ``out`` has a default."""

    system: Any = None
    """Name or path of a system, or a mapping with ``base:`` and what differs from it."""
    weights: str | None = None
    """Folder of weights to start from, a release for example: the ``weights`` of the system."""
    data: Any = None
    """Folder of token data, or a list of folders."""
    held_out: Any = 0.02
    """Folder of token data no training sees, or the share of the texts of ``data`` to keep out."""
    held_out_limit: Count = 500
    """Utterances of the held-out loss at most, so that measuring it stays short."""
    out: str = ""
    """Folder of the run; empty means ``runs/`` and the name of the YAML file."""
    objective: Any = field(default_factory=lambda: {"name": "codes"})
    """The loss that is minimised: ``{name: KEY, ...fields}``; "codes" is cross entropy."""
    freeze: list[str] = field(default_factory=list)
    """Parts that stay as they are, such as backbone, head or tables.text."""
    steps: Annotated[int, Range(1, 10**9)] = 10_000
    """Optimiser steps of the whole run; the schedule ends there."""
    max_minutes: NonNegative = 0.0
    """The run's time: after some steps its number of steps, at most ``steps``, and its warm-up are
    fitted to what this machine does in it, and it ends with an export; 0 means ``steps`` alone."""
    batch_positions: Annotated[int, Range(1, 2**31 - 1)] = 8192
    """Padded positions a process sees at once: batch size times longest sequence."""
    accumulate: Size = 1
    """How many such batches a process sees in one step, one after another."""
    segment_positions: Count = 0
    """Longest segment that gradients go back through: longer sequences are cut, a segment a step,
    and as many are read side by side as fit into batch_positions. 0 means whole sequences."""
    carry: bool = True
    """True to begin each segment with the state after the one before; else each begins anew."""
    shard: Annotated[str, OneOf("none", "full")] = "none"
    """"none": every process has all weights, and gradients are summed. "full": processes share
    weights, gradients, average and AdamW's memory out (FSDP2). One process alone has all of it."""
    optimizer: Annotated[str, OneOf("adamw", "muon")] = "adamw"
    """"adamw", or "muon": Muon for the matrices inside the backbone, AdamW for the others."""
    muon_rate: Positive = 3.0
    """Learning rate of Muon's matrices over that of the others. Of 1, 3 and 6 the middle one was
    best after 250 steps of the bundled Transformer."""
    drop: Drop = field(default_factory=Drop)
    """Probabilities of training without a condition (text, prompt, ...); held-out data has all."""
    learning_rate: NonNegative = 1e-3
    """Highest learning rate."""
    weight_decay: Annotated[float, Range(0, 10)] = 0.01
    """Of AdamW, for the matrices that the model's parameter groups name."""
    beta1: Dropout = 0.9
    """Decay of AdamW's mean of gradients."""
    beta2: Dropout = 0.99
    """Decay of AdamW's mean of squared gradients, quicker than the usual 0.999."""
    epsilon: Annotated[float, Range(0, 1)] = 1e-18
    """AdamW's guard against division by zero; small, because tables have rare, tiny gradients."""
    clip: NonNegative = 1.0
    """Longest gradient, as a norm over all parameters; 0 means any."""
    warmup_steps: Count = 100
    """Steps over which the learning rate rises from a hundredth to its highest."""
    schedule: Annotated[str, OneOf("cosine", "trapezoid")] = "cosine"
    """"cosine" falls all the time; "trapezoid" stays high and falls in a line at the end."""
    final_rate: Share = 0.0
    """Learning rate at the end, as a share of the highest."""
    decay_share: Share = 0.25
    """Share of the steps in which "trapezoid" falls."""
    ema: Dropout = 0.999
    """Decay per step of the averaged weights, which are measured and exported; 0 averages none."""
    precision: Annotated[str, OneOf("auto", "bf16", "fp32")] = "auto"
    """"bf16" runs forward and backward under autocast, "fp32" does not; "auto" is "bf16" where the
    device is faster with it when a run begins, and stays what it was when the run goes on."""
    seed: Seed = 1
    """Of the initial weights, the order of the data, the layouts and the dropout."""
    device: str = "auto"
    """"auto" takes the GPU where there is one."""
    log_every: Annotated[int, Range(1)] = 20
    """Steps between lines of the log."""
    evaluate_every: Count = 500
    """Steps between held-out losses; 0 means only at the end."""
    reference: str = ""
    """Folder of another run, or a curve such as train/curves/quickstart-rwkv7.json, whose held-out
    losses at the same steps are printed and logged beside this run's; empty means none."""
    checkpoint_every: Count = 0
    """Steps between checkpoints; 0 means by time alone."""
    checkpoint_minutes: NonNegative = 10.0
    """Minutes between checkpoints; 0 means by steps alone."""
    keep: Annotated[int, Range(1, 10**6)] = 2
    """Checkpoints to keep."""
    tensorboard: bool = False
    """Write TensorBoard events beside the log."""
    samples: list[str] = field(default_factory=list)
    """Sentences to speak into the run's folder at every checkpoint."""


RUNNING = (
    "out", "log_every", "evaluate_every", "held_out_limit", "checkpoint_every",
    "checkpoint_minutes", "keep", "tensorboard", "samples", "device", "shard", "reference",
)  # fmt: skip
"""Fields that may differ when a run is resumed, because no loss depends on them."""


def read_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Config]:
    """A training YAML and the resolved configuration of the system it trains.

    Overrides ``system.backbone.width=...`` reach into the system. Raises ``ConfigError``.
    """
    inner = [o.removeprefix("system.") for o in overrides if o.startswith("system.")]
    outer = [o for o in overrides if not o.startswith("system.")]
    values = compose(name_or_path, outer, kind="train")
    if isinstance(values.get("system"), str):
        # 'system.base=NAME' replaces a system that is named by 'system: NAME'
        bases = [word.partition("=")[2] for word in inner if word.startswith("base=")]
        inner = [word for word in inner if not word.startswith("base=")]
        values["system"] = bases[-1].strip("\"'") if bases else values["system"]
    # overrides reach into a mapping, or make one where the file leaves the system out
    if not isinstance(values.get("system"), str) and (inner or values.get("system")):
        values, inner = compose(name_or_path, overrides, kind="train"), []
    recipe: Recipe = _structured(values)
    _validate(recipe, values)
    places = {"objective": recipe.objective}
    recipe.objective = resolve_objective(Config(places, values.path, values.places))
    if not recipe.out:
        recipe.out = str(Path("runs") / Path(name_or_path).stem)
    folder = values.path.parent if values.path else Path()
    over = {"weights": recipe.weights} if recipe.weights else {}
    system = _system(recipe.system, inner, folder, over)
    recipe.system = dict(system)
    return recipe, system


def _structured(values: Config) -> Recipe:
    places = {f"recipe.{key}": place for key, place in values.places.items()}
    return structured(Recipe, values, "recipe", Config(values, values.path, places))


def _system(system: Any, overrides: list[str], folder: Path, over: dict[str, Any]) -> Config:
    """The resolved system; a file beside the recipe comes before a bundled name.

    ``over`` are values of the recipe that go over the system's.
    """

    def place(name: str) -> str | Path:
        return folder / name if (folder / name).is_file() else name

    if isinstance(system, str):
        return resolve(compose(place(system), overrides, over=over))
    differences = merge(system, over)
    if "base" not in differences:
        return resolve(Config(differences))
    # the differences are merged before references of the base are resolved, which may name them
    base = place(differences.pop("base"))
    return resolve(Config(compose(base, over=differences)))


def _validate(recipe: Recipe, values: Config) -> None:
    def refuse(key: str, what: str, do: str) -> None:
        raise ConfigError(what, values.place(key), do)

    if not isinstance(recipe.system, str | Mapping):
        refuse("system", "'system' does not say what to train.", "Write 'system: NAME'.")
    base = recipe.system.get("base", "") if isinstance(recipe.system, Mapping) else ""
    if not isinstance(base, str):
        refuse("system.base", f"'system.base: {base}' is no system.", "Write its name or path.")
    for key in ("data", "held_out"):
        folders = getattr(recipe, key)
        if isinstance(folders, list) and not all(isinstance(name, str) for name in folders):
            refuse(key, f"'{key}' lists something that is no folder.", "Write names or paths.")
    if not isinstance(recipe.data, str | list) or not recipe.data:
        refuse("data", "'data' does not name a folder of token data.", "Write 'data: FOLDER'.")
    if not isinstance(recipe.held_out, str | float | int | list):
        refuse("held_out", "'held_out' is neither a folder nor a share.", "Write a number or path.")
    if recipe.optimizer == "muon" and recipe.shard == "full":
        refuse("optimizer", "Muon needs whole matrices, and 'shard: full' cuts them.",
               "Write 'shard: none', or 'optimizer: adamw'.")  # fmt: skip
    if recipe.segment_positions > recipe.batch_positions:
        refuse(
            "segment_positions",
            f"A piece of {recipe.segment_positions} positions does not fit into a batch of"
            f" {recipe.batch_positions}.",
            "Write a number up to batch_positions, or 0 for whole sequences.",
        )
    objective = recipe.objective.get("name") if isinstance(recipe.objective, Mapping) else None
    if recipe.segment_positions and objective != "codes":
        refuse(
            "segment_positions",
            f"The objective '{objective}' sees whole sequences only.",
            "Write 'objective: {name: codes}', or segment_positions: 0.",
        )


def as_saved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it is written beside a run, the system resolved in it."""
    return asdict(recipe)
