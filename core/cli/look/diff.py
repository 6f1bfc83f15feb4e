"""``wishbone diff A B``: the keys that differ between two systems, recipes or trained folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.cli.arguments import argument, parse
from wishbone.core.contract.errors import ConfigError

EXAMPLES = """examples:
  wishbone diff quickstart-rwkv7 mine.yaml
  wishbone diff lora dora
  wishbone diff runs/one/export runs/two/export"""
ABSENT = "-"


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """Print every dotted key that two configurations do not share, with both values.

    Defaults are filled in, so a key that one file leaves out differs only where its default does.
    Of trained weights the recipe and the data are compared, too.
    """

    a: str = argument(metavar="A", help="a system, a recipe, a run or an export: name or path")
    b: str = argument(metavar="B", help="another of the same kind")


def main(argv: Sequence[str]) -> int:
    """Print the differences, or that there are none; returns the exit code."""
    options = parse(DiffOptions, argv, "wishbone diff", EXAMPLES)
    one, other = _both(options.a, options.b)
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    if not keys:
        print("no key differs")
    for key in keys:
        print(f"{key}\n  {options.a}: {_shown(one, key)}\n  {options.b}: {_shown(other, key)}")
    return 0


def _both(a: str, b: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both as flat dictionaries: recipes if one of them is, else systems."""
    read = _recipe if _is_recipe(a) or _is_recipe(b) else _system
    return read(a), read(b)


def _is_recipe(name: str) -> bool:
    """True for a run, and for what only training knows. Raises ``UnknownName`` for nothing."""
    from wishbone.core.config.compose import bundled, compose

    try:
        values = compose(_resolved(name))
    except ConfigError:
        if (bundled() / "train" / f"{name}.yaml").is_file():
            return True
        raise
    return "data" in values or "system" in values


def _system(name: str) -> dict[str, Any]:
    """A system, and how its weights were made."""
    from wishbone.core.config.compose import compose, weights_folder
    from wishbone.core.evaluate.experiment.arms import flattened
    from wishbone.core.system.spec import resolve
    from wishbone.core.weights.provenance import start_weights, trainings

    config = resolve(compose(name))
    flat = flattened(config)
    if not config.get("weights"):
        return flat
    flat["weights"] = start_weights(config)[:16]
    stages = trainings(Path(weights_folder(config["weights"])))
    if not stages:
        return flat
    return flat | flattened({"training": {**stages[-1], "before": stages[:-1]}})


def _recipe(name: str) -> dict[str, Any]:
    """A recipe with its system resolved; of a run, what it was begun with."""
    from wishbone.core.config.compose import compose
    from wishbone.core.evaluate.experiment.arms import flattened
    from wishbone.core.train.recipe import Recipe, as_saved, read_recipe

    if not Path(name).is_dir():
        return flattened(as_saved(read_recipe(name)[0]))
    # beside the recipe a run notes hashes and counts of its own
    values, known = compose(_resolved(name), kind="train"), as_saved(Recipe())
    return flattened({key: value for key, value in values.items() if key in known})


def _resolved(name: str) -> str:
    """A recipe's name, or the configuration in the folder of a run."""
    config = Path(name) / "config.yaml"
    return str(config) if config.is_file() else name


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = str(values.get(key, ABSENT))
    return text if len(text) <= 200 else f"{text[:197]}..."
