"""The plan of an A/B: the file that describes it, read and checked before anything is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import Config, bundled, compose, weights_folder
from wishbone.core.config.schema import innermost, structured
from wishbone.core.contract.engines import parse_engine
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.extensions.metric import MetricInfo, ModelMetric
from wishbone.core.evaluate.experiment.arms import (
    Arm,
    Checkpoint,
    Training,
    Trainings,
    all_trainings,
    crossed_arms,
    factor_levels,
    named_arms,
)
from wishbone.core.evaluate.prompts.prompt_lists import find_prompts, in_voices, read_prompts
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.sources.outside import recordings_hash, refuse_recordings
from wishbone.core.evaluate.statistics.looks import too_early
from wishbone.core.evaluate.statistics.metrics import (
    blamed,
    choose,
    choose_listening,
    choose_primary,
    create,
    metric_class,
    needs_reference,
)
from wishbone.core.evaluate.statistics.paired import DRAWS
from wishbone.core.evaluate.statistics.verdict import ALPHA

QUICK = 6
"""Prompts of ``--quick``: enough to see that everything works, and nothing else."""


@dataclass
class Experiment:
    """The keys of an A/B's YAML file."""

    about: str = ""
    """A sentence for people."""
    arms: dict[str, Any] = field(default_factory=dict)
    """Name -> a system (name or path), or ``{system: ..., set: [key=value, ...]}``, or several
    trainings of one: ``{systems: [FOLDER, ...]}``. ``levels: {FACTOR: LEVEL}`` says which cell of
    a table an arm is. The first is the baseline that the others are compared with."""
    factors: dict[str, Any] = field(default_factory=dict)
    """Instead of ``arms``: factor -> level -> what it changes in the recipe of ``train``. There is
    one arm for every combination, and the first level of each makes the baseline."""
    train: Trainings = field(default_factory=Trainings)
    """Trainings of the arms of ``factors``."""
    vary: list[str] = field(default_factory=lambda: ["backbone"])
    """Keys of the system that may differ; weights differ with them. All else must be equal."""
    prompts: str = "prompts-en.txt"
    """File of sentences, one a line; looked for beside the YAML file, then among the bundled.
    ``.tsv``: kinds of sentence before a tab; ``.lst``: a list of the form of seed-tts-eval."""
    limit: int = 0
    """Only the first so many prompts; 0 means all."""
    seeds: int = 1
    """Repeats of each prompt by each arm."""
    seed: int = 1
    """Every item's seed follows from this and its prompt, and is the same for all arms."""
    metrics: list[Any] = field(default_factory=list)
    """Metrics beside the usual ones: keys of the registry, or ``{name: KEY, ...options}``."""
    margins: dict[str, float] = field(default_factory=dict)
    """Metric -> largest difference that counts as equivalent."""
    primary: list[str] = field(default_factory=list)
    """Metrics that a verdict is given on, corrected together; empty means the usual ones. All
    others are exploratory."""
    looks: list[int] = field(default_factory=list)
    """Numbers of prompts at which the result is looked at, such as [48, 96]: each look uses a
    part of the chance of a false alarm. Empty means one look, at all prompts."""
    rounds: int = 3
    """Times that each item is spoken for its times, of which the median counts; 1 is quicker, and
    for systems that take long."""
    voice: str = ""
    """Voice of all arms; empty means each system's own."""
    voices: list[str] = field(default_factory=list)
    """Several voices, each of which says every prompt in every arm: results are then of voices,
    too, and not of these alone. No likeness is measured, since a reference is one voice."""
    engine: str = "auto"
    """Engine of all arms' decoding steps, NAME or NAME:WEIGHTS: "auto" is the fastest that all of
    them can have on this machine, "eager" plain PyTorch."""
    reference: str = ""
    """Folder of the same prompts spoken by the voice that is imitated: what the metrics say of it
    is shown beside the arms, and likeness is measured against it."""
    held_out: Any = ""
    """Token data that no arm was trained on, one path or several: losses and the binding gap of
    every checkpoint are measured on it. Empty measures neither."""
    held_out_limit: int = 100
    """Utterances of it at most."""


@dataclass
class Plan:
    """Everything that decides the result of an A/B."""

    name: str
    about: str
    arms: list[Arm]
    prompts: list[Prompt]
    seeds: int
    seed: int
    vary: list[str]
    metrics: dict[str, MetricInfo]
    """Metrics of spoken items, in the order of the tables."""
    voice: str | None
    reference: Path | None
    quick: bool
    held_out: list[Path] = field(default_factory=list)
    held_out_limit: int = 100
    listening: dict[str, MetricInfo] = field(default_factory=dict)
    """Metrics of the language model, measured on ``held_out``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Metric -> instance of its ``Config``, for those that an A/B file adds."""
    factors: dict[str, list[str]] = field(default_factory=dict)
    """Factor -> levels; empty when arms are no cells of a table."""
    trainings: list[Training] = field(default_factory=list)
    """The trainings that the arms need, in order; empty when the arms are given."""
    engine: str = "auto"
    """The engine that all arms are asked for, as in ``Experiment``."""
    looks: list[int] = field(default_factory=list)
    """As in ``Experiment``."""
    rounds: int = 3
    """As in ``Experiment``."""
    available: int = 0
    """Prompts that the file has; 0 where that is not known."""
    voices: list[str] = field(default_factory=list)
    """As in ``Experiment``; ``prompts`` are then every sentence in every voice."""

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Every set of weights that speaks, in the order of the arms."""
        return [checkpoint for arm in self.arms for checkpoint in arm.checkpoints]

    @property
    def used(self) -> list[str]:
        """Keys of the metrics that are measured: without a reference, none that needs one."""
        return [
            key
            for key in (*self.listening, *self.metrics)
            if self.reference is not None or not needs_reference(key)
        ]

    def seed_of(self, prompt: Prompt, repeat: int) -> int:
        """Seed of one item: from the base seed and the prompt, not from its place in the run."""
        return seed_of(self.seed, prompt, repeat)

    def fingerprint(self) -> str:
        """Changes with anything that changes an item, so that a run is only resumed as itself.

        The number of prompts is left out: a larger run may go on from a smaller one. So are their
        texts, from which the seed of each item follows: a changed prompt is spoken again.
        """
        identity = {
            "arms": {c.key: dict(c.config) for c in self.checkpoints},
            "weights": {c.key: weights_hash(c.config) for c in self.checkpoints},
            "seed": self.seed,
            "voice": self.voice,
            "reference": self._reference_files(),
        }
        manners = {c.key: c.manner.changed for c in self.checkpoints if c.manner.changed}
        if manners:
            identity["manners"] = manners
        if self.engine != "eager":
            # older fingerprints hold no engine: all runs were eager
            identity["engine"] = self.engine
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def _reference_files(self) -> list[tuple[str, int]]:
        if self.reference is None:
            return []
        return sorted((p.name, p.stat().st_size) for p in self.reference.iterdir() if p.is_file())


def seed_of(base: int, prompt: Prompt, repeat: int) -> int:
    """Seed of one item, below 2^31: from the base seed and the prompt, not from the run."""
    words = f"{base}/{prompt.key}/{prompt.text}/{repeat}"
    if prompt.recording:
        words += f"/{Path(prompt.recording).name}/{prompt.transcript}"
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") >> 1


def read_plan(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    *,
    prompts: int | None = None,
    seeds: int | None = None,
    quick: bool = False,
    trained: Path | None = None,
    engine: str | None = None,
    voices: Sequence[str] = (),
) -> Plan:
    """Read an A/B file. ``prompts``, ``seeds``, ``engine`` and ``voices`` replace its own.

    ``trained`` is the folder of the trainings that its ``train:`` asks for; without one the arms
    are as they will be when they are trained. Raises ``ConfigError``.
    """
    values = compose(name_or_path, overrides, kind="ab")
    places = {f"ab.{key}": place for key, place in values.places.items()}
    experiment: Experiment = structured(
        Experiment, values, "ab", Config(values, values.path, places)
    )
    _check_experiment(experiment, values)
    parse_engine(engine := engine or experiment.engine, values.place("engine"))
    folder = values.path.parent if values.path else Path()
    lines = read_prompts(find_prompts(experiment.prompts, folder, values.place("prompts")))
    limit = QUICK if quick and prompts is None else (prompts or experiment.limit or len(lines))
    if limit > len(lines):
        raise ConfigError(
            f"{limit} prompts are wanted and the file has {len(lines)}.",
            values.place("prompts"),
            "Ask for fewer, or name a longer file under 'prompts'.",
        )
    several = list(voices or experiment.voices)
    reference = None
    if experiment.reference and not several:
        reference = _locate(experiment.reference, folder, values.place("reference"))
    if experiment.factors:
        arms = crossed_arms(experiment.factors, experiment.train, folder, values, trained)
    else:
        arms = named_arms(experiment.arms, folder, values)
    if several:
        refuse_recordings([arm.config for arm in arms], values.place("voices"))
        lines = in_voices(lines[:limit], several, values.place("voices"))
    options = _added_metrics(experiment, values)
    held_out = (
        [experiment.held_out] if isinstance(experiment.held_out, str) else list(experiment.held_out)
    )
    metrics = choose(experiment.margins, options)
    listening = choose_listening(experiment.margins, options) if any(held_out) else {}
    primary = choose_primary(experiment.primary, metrics | listening, values.place("primary"))
    claims = (len(arms) - 1) * sum(metric.primary for metric in primary.values())
    if early := too_early(experiment.looks, ALPHA, claims, DRAWS):
        raise ConfigError(
            f"The look at {early[0]} of {experiment.looks[-1]} prompts may use so little of the"
            f" chance of a false alarm that {claims} claims could never be settled by it.",
            values.place("looks"),
            "Look first at half of the prompts or more, such as [48, 96].",
        )
    return Plan(
        name=values.path.stem if values.path else "ab",
        about=experiment.about,
        arms=arms,
        prompts=lines if several else lines[:limit],
        seeds=seeds or experiment.seeds,
        seed=experiment.seed,
        vary=experiment.vary,
        metrics={key: primary[key] for key in metrics},
        voice=experiment.voice or None,
        reference=reference,
        quick=quick,
        held_out=[_data(name, folder, values.place("held_out")) for name in held_out if name],
        held_out_limit=experiment.held_out_limit,
        listening={key: primary[key] for key in listening},
        options=options,
        factors=factor_levels(arms, values.place("arms")),
        trainings=all_trainings(experiment.factors, experiment.train, folder, trained)
        if trained
        else [],
        engine=engine,
        looks=list(experiment.looks),
        rounds=experiment.rounds,
        available=len(lines),
        voices=several,
    )


def _added_metrics(experiment: Experiment, values: Config) -> dict[str, Any]:
    """Key -> options of the metrics under ``metrics``. Raises ``ConfigError``."""
    options: dict[str, Any] = {}
    place = values.place("metrics")
    for entry in experiment.metrics:
        section = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            raise ConfigError(
                f"'{entry}' does not say which metric to use.",
                place,
                "Write 'metrics: [KEY]', or '[{name: KEY, OPTION: VALUE}]'.",
            )
        key = section["name"]
        cls = metric_class(key)
        if needs_reference(key) and not experiment.reference:
            raise ConfigError(
                f"The metric '{key}' compares with recordings, and there are none.",
                place,
                "Write 'reference: FOLDER' with recordings of the same prompts.",
            )
        if issubclass(cls, ModelMetric) and not experiment.held_out:
            raise ConfigError(
                f"The metric '{key}' is measured on held-out token data, and there is none.",
                place,
                "Write 'held_out: FOLDER'.",
            )
        fields = {name: value for name, value in section.items() if name != "name"}
        options[key] = structured(cls.Config, fields, key, values)
        with blamed(key, "being prepared"):
            create(key, options[key]).prepare()
    return options


def weights_files(config: Config) -> list[Path]:
    """Files of weights that a system reads, in a fixed order."""
    names = [config.get("weights"), *(v.get("weights") for v in config.values() if _is_slot(v))]
    names.append(innermost(config.get("backbone") or {}).get("weights"))
    folders = dict.fromkeys(weights_folder(name) for name in names if name)
    return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]


def weights_hash(config: Config) -> dict[str, str]:
    """Folder and name of every file of weights, or of recordings -> SHA-256 of what it holds."""
    hashes = recordings_hash(config)
    for file in weights_files(config):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        hashes[f"{file.parent.name}/{file.name}"] = digest
    return hashes


def _is_slot(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value


def _check_experiment(experiment: Experiment, values: Config) -> None:
    if experiment.arms and experiment.factors:
        raise ConfigError(
            "Both 'arms' and 'factors' say what is compared.",
            values.place("factors"),
            "Keep one of them; cells of a table can be listed under 'arms' with 'levels'.",
        )
    if len(experiment.arms) < 2 and not experiment.factors:
        raise ConfigError(
            f"An A/B needs at least two arms, and this has {len(experiment.arms)}.",
            values.place("arms"),
            "Write 'arms: {one: SYSTEM, other: SYSTEM}'.",
        )
    names = [
        *experiment.arms,
        *(level for levels in experiment.factors.values() for level in levels or ()),
    ]
    for key in names:
        if not str(key).replace("-", "").replace("_", "").isalnum() or key == "reference":
            raise ConfigError(
                f"'{key}' cannot be the name of an arm.",
                values.place(f"arms.{key}"),
                "Use letters, digits and hyphens; 'reference' has a meaning of its own.",
            )
    if (
        list(experiment.looks) != sorted(set(experiment.looks))
        or min(experiment.looks, default=1) < 1
    ):
        raise ConfigError(
            f"'looks' is {experiment.looks}.",
            values.place("looks"),
            "Write growing numbers of prompts, such as [48, 96].",
        )
    for key in ("limit", "seeds", "seed", "held_out_limit", "rounds"):
        if getattr(experiment, key) < (0 if key in ("limit", "seed") else 1):
            raise ConfigError(
                f"'{key}' is {getattr(experiment, key)}.",
                values.place(key),
                "Write a larger number.",
            )


def _locate(name: str, folder: Path, place: str) -> Path:
    for path in (folder / name, bundled() / "ab" / name, Path(name)):
        if path.exists():
            return path
    raise ConfigError(
        f"There is no '{name}'.", place, "Give a path beside the A/B file, or a bundled name."
    )


def _data(name: Any, folder: Path, place: str) -> Path:
    """A file or folder of token data: beside the A/B file, bundled, or where the path says."""
    for path in (folder / str(name), weights_folder(str(name))):
        if path.exists():
            return path
    raise ConfigError(
        f"There is no '{name}'.", place, "Give a path to token data, or the name of bundled data."
    )
