"""The arms of an A/B: which systems, trained how often, and at which levels of which factors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import Config
from wishbone.core.config.schema import structured
from wishbone.core.contract.engines import parse_engine
from wishbone.core.contract.errors import ConfigError
from wishbone.core.evaluate.sources.manner import MANNER, Manner
from wishbone.core.evaluate.sources.outside import outside_of, read_outside
from wishbone.core.system.spec import read
from wishbone.core.train.recipe import RUNNING, as_saved, read_recipe
from wishbone.core.weights.provenance import start_weights


@dataclass
class Trainings:
    """Keys under ``train:`` of an A/B file: one recipe for all arms, and its changes."""

    base: str = ""
    """Recipe of every training; ``{factor}`` in it stands for the arm's level."""
    set: dict[str, Any] = field(default_factory=dict)
    """Changes to the recipe in all trainings."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    """Training seeds: each arm has one checkpoint for each."""


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights that speaks."""

    key: str
    """The arm's name, with ``.1``, ``.2``, ... behind it where the arm has several."""
    config: Config
    """Resolved."""
    manner: Manner = Manner()
    """How its system speaks."""


@dataclass(frozen=True)
class Arm:
    """One side of the comparison."""

    key: str
    system: str
    """Its name in the A/B file."""
    config: Config
    """Resolved; of the first checkpoint where there are several."""
    others: tuple[Config, ...] = ()
    """Of the further checkpoints: the same system, trained with other seeds."""
    levels: Mapping[str, str] = field(default_factory=dict)
    """Factor -> level, where arms are cells of a table."""
    manner: Manner = Manner()
    """How its system speaks, where that is not the same in all arms."""

    @property
    def is_outside(self) -> bool:
        """True for recordings or a server, of whose making nothing is known."""
        return outside_of(self.config) is not None

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """All sets of weights of this arm."""
        if not self.others:
            return [Checkpoint(self.key, self.config, self.manner)]
        configs = (self.config, *self.others)
        return [
            Checkpoint(f"{self.key}.{n}", config, self.manner)
            for n, config in enumerate(configs, 1)
        ]


@dataclass(frozen=True)
class Training:
    """One training that an arm needs."""

    key: str
    """The arm's name and the number of the seed, so that seeds can be added later."""
    recipe: str | Path
    overrides: list[str]
    folder: Path

    @property
    def export(self) -> Path:
        """The folder that the training leaves when it is done."""
        return self.folder / "export"

    @property
    def done(self) -> bool:
        """True once the training has left its weights."""
        return (self.export / "config.yaml").is_file()


def named_arms(entries: Mapping[str, Any], folder: Path, values: Config) -> list[Arm]:
    """Arms that an A/B file lists under ``arms``; ``folder`` is that file's."""
    arms = [_arm(key, value, folder, values) for key, value in entries.items()]
    counts = {len(arm.checkpoints) for arm in arms}
    if len(counts) > 1:
        listed = ", ".join(f"{arm.key}: {len(arm.checkpoints)}" for arm in arms)
        raise ConfigError(
            f"The arms have different numbers of checkpoints ({listed}).",
            values.place("arms"),
            "Give every arm as many, or one.",
        )
    return arms


def _arm(key: str, value: Any, folder: Path, values: Config) -> Arm:
    value = {"system": value} if isinstance(value, str) else value
    place = values.place(f"arms.{key}")
    levels = {}
    if isinstance(value, dict):
        levels = {str(k): str(v) for k, v in (value.get("levels") or {}).items()}
        if "audio" in value or "url" in value:
            config = read_outside(value, key, folder, values)
            origin = outside_of(config)
            assert origin is not None
            return Arm(
                str(key), origin.audio or f"{origin.model} at {origin.url}", config, (), levels
            )
    keys = {"system", "systems", "set", "levels", *MANNER}
    if (
        not isinstance(value, dict)
        or set(value) - keys
        or ("system" in value) == ("systems" in value)
    ):
        raise ConfigError(
            f"The arm '{key}' does not say which system it is.",
            place,
            "Write a system's name, or '{system: NAME, set: [key=value]}'; several trainings of "
            "one system are '{systems: [FOLDER, FOLDER, ...]}', recordings '{audio: FOLDER}', a "
            "server '{url: ADDRESS, model: NAME}'.",
        )
    names = [str(name) for name in value.get("systems") or [value.get("system")]]
    overrides = [str(word) for word in value.get("set") or []]
    configs = [read(_beside(name, folder), overrides) for name in names]
    _need_same(key, configs, place)
    spoken = {name: value[name] for name in MANNER if name in value}
    manner: Manner = structured(Manner, spoken, f"ab.arms.{key}", values)
    if manner.engine:
        parse_engine(manner.engine, place)
    return Arm(str(key), ", ".join(names), configs[0], tuple(configs[1:]), levels, manner)


def _beside(name: str, folder: Path) -> str | Path:
    """A file or a trained folder beside the A/B file, or the name as it is."""
    near = [folder / name, folder / f"{name}.yaml", folder / name / "config.yaml"]
    return next((path for path in near if path.is_file()), name)


def _need_same(key: str, configs: Sequence[Config], place: str) -> None:
    """Checkpoints of one arm differ in their weights and in nothing else."""
    first = {k: v for k, v in configs[0].items() if k != "weights"}
    for number, config in enumerate(configs[1:], 2):
        differ = [k for k in {*first, *config} - {"weights"} if first.get(k) != config.get(k)]
        if differ:
            raise ConfigError(
                f"Checkpoint {number} of '{key}' is another system: {', '.join(sorted(differ))}.",
                place,
                "List trainings of one system that differ in their seed alone.",
            )


def crossed_arms(
    factors: Mapping[str, Any],
    train: Trainings,
    folder: Path,
    values: Config,
    trained: Path | None,
) -> list[Arm]:
    """One arm for every combination of levels, with the checkpoints of its trainings.

    The configuration is that of the finished training, and of its recipe where there is none yet.
    """
    _check_factors(factors, train, values)
    try:
        return _crossed_arms(factors, train, folder, values, trained)
    except ConfigError as error:
        if error.where != "the command line":
            raise
        # what the levels change is laid over the recipe like words of a command
        place = values.place("factors")
        raise ConfigError(error.what, place, error.do) from error


def _crossed_arms(
    factors: Mapping[str, Any],
    train: Trainings,
    folder: Path,
    values: Config,
    trained: Path | None,
) -> list[Arm]:
    arms = []
    for levels in _combinations(factors):
        configs = []
        for training in trainings_of(levels, factors, train, folder, trained or Path()):
            if training.done:
                _need_recipe(training)
                configs.append(read(training.export))
            else:
                untrained = read_recipe(training.recipe, training.overrides)[1]
                export = str(training.export.absolute())
                configs.append(Config({**untrained, "weights": export}))
        key = "-".join(levels.values())
        # a key that one training leaves out of its configuration, another must not have
        _need_same(key, configs, values.place("train"))
        base = _base(train, levels, factors)
        arms.append(Arm(key, base, configs[0], tuple(configs[1:]), levels))
    return arms


def all_trainings(
    factors: Mapping[str, Any], train: Trainings, folder: Path, trained: Path
) -> list[Training]:
    """Every training of the experiment: all arms with the first seed, then with the second, ..."""
    arms = [
        trainings_of(levels, factors, train, folder, trained) for levels in _combinations(factors)
    ]
    return [training for seed in zip(*arms, strict=True) for training in seed]


def trainings_of(
    levels: Mapping[str, str],
    factors: Mapping[str, Any],
    train: Trainings,
    folder: Path,
    trained: Path,
) -> list[Training]:
    """The trainings of one arm, a seed each."""
    key = "-".join(levels.values())
    changes = flattened(train.set)
    for factor, level in levels.items():
        changes |= flattened(factors[factor][level] or {})
    changes.pop("base", None)
    base = _base(train, levels, factors)
    trainings = []
    for number, seed in enumerate(train.seeds, 1):
        name = f"{key}.{number}"
        run = trained / name
        values = changes | {"seed": seed, "out": str(run)}
        overrides = [f"{k}={json.dumps(v)}" for k, v in values.items()]
        trainings.append(Training(name, _beside(base, folder), overrides, run))
    return trainings


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _base(train: Trainings, levels: Mapping[str, str], factors: Mapping[str, Any]) -> str:
    """The recipe of an arm: the one that a level names under ``base``, else that of ``train``."""
    base = train.base
    for factor, level in levels.items():
        base = str((factors[factor][level] or {}).get("base") or base)
    for factor, level in levels.items():
        base = base.replace(f"{{{factor}}}", level)
    return base


def _combinations(factors: Mapping[str, Any]) -> list[dict[str, str]]:
    names = list(factors)
    if not names:
        return []
    return [dict(zip(names, row, strict=True)) for row in product(*(factors[n] for n in names))]


def _check_factors(factors: Mapping[str, Any], train: Trainings, values: Config) -> None:
    for name, levels in factors.items():
        if not isinstance(levels, Mapping) or len(levels) < 2:
            raise ConfigError(
                f"The factor '{name}' does not have two levels.",
                values.place(f"factors.{name}"),
                "Write 'NAME: {LEVEL: {key: value}, LEVEL: {}}' with what each changes.",
            )
        for level, changes in levels.items():
            if changes is not None and not isinstance(changes, Mapping):
                raise ConfigError(
                    f"The level '{level}' of '{name}' does not say what it changes.",
                    values.place(f"factors.{name}.{level}"),
                    "Write keys of the training's recipe, or {} where the base has it all.",
                )
    has_recipe = any(
        all(isinstance(changes, Mapping) and changes.get("base") for changes in levels.values())
        for levels in factors.values()
    )
    if not train.base and not has_recipe:
        raise ConfigError(
            "'factors' makes arms by training them, and 'train' names no recipe.",
            values.place("train"),
            "Write 'train: {base: RECIPE}', or list trained systems under 'arms'.",
        )
    if not train.seeds or len(set(train.seeds)) < len(train.seeds):
        raise ConfigError(
            f"{train.seeds} are not seeds of different trainings.",
            values.place("train.seeds"),
            "Write different numbers, such as [1, 2, 3].",
        )


def _need_recipe(training: Training) -> None:
    """Raise ``ConfigError`` when a finished training followed another recipe than this one."""
    path = training.export / "provenance.json"
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))["notes"]
        saved = notes["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        notes, saved = {}, None
    recipe, system = read_recipe(training.recipe, training.overrides)
    required = as_saved(recipe)
    keys = [key for key in required if key not in (*RUNNING, "system")]
    if recipe.precision == "auto":
        keys.remove("precision")  # what was done says which one it was on that machine
    differ = [k for k in keys if saved is None or k in saved and saved[k] != required[k]]
    before, begun = notes.get("start_weights"), start_weights(system)
    if before is not None and begun and before != begun:
        differ.append("start weights (the folder holds others now)")
    exported = read(training.export)
    parts = ("tokenizer", "layout", "backbone", "head")
    slots = [part for part in parts if exported.get(part) != dict(system).get(part)]
    if differ or slots:
        raise ConfigError(
            f"The training '{training.key}' is done, with other {', '.join([*differ, *slots])}.",
            str(training.folder),
            "Choose another --out, or remove that training to have it made again.",
        )


def factor_levels(arms: Sequence[Arm], place: str) -> dict[str, list[str]]:
    """Factor -> its levels in order of appearance; empty when the arms name none.

    Raises ``ConfigError`` unless there is one arm for every combination.
    """
    factors: dict[str, list[str]] = {}
    for arm in arms:
        for factor, level in arm.levels.items():
            levels = factors.setdefault(factor, [])
            levels += [] if level in levels else [level]
    if not factors:
        return {}
    cells = list(product(*factors.values()))
    filled = [tuple(arm.levels.get(factor, "") for factor in factors) for arm in arms]
    if sorted(cells) != sorted(filled):
        missing = [" and ".join(cell) for cell in cells if cell not in filled]
        raise ConfigError(
            f"The levels of the arms make no complete table; missing: {'; '.join(missing) or '-'}.",
            place,
            "Give one arm for every combination of levels, or leave 'levels' out.",
        )
    return factors
