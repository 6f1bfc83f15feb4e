"""``wishbone diff A B``: the keys that differ between two systems, recipes or trained folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.cli.arguments import argument, parse
from wishbone.core.contract.errors import ConfigError, UnknownName

EXAMPLES = """examples:
  wishbone diff quickstart-rwkv7 mine.yaml
  wishbone diff quickstart adaptation
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
    """Both as flat dictionaries: systems if both are, else recipes."""
    try:
        return _system(a), _system(b)
    except ConfigError as error:
        try:
            return _recipe(a), _recipe(b)
        except ConfigError:
            raise error from None


def _system(name: str) -> dict[str, Any]:
    """A system, and how its weights were made."""
    from wishbone.core.config.compose import compose, weights_folder
    from wishbone.core.evaluate.experiment.arms import flattened
    from wishbone.core.system.spec import resolve
    from wishbone.core.weights.provenance import start_weights

    values = compose(name)
    if "data" in values or "system" in values:
        raise UnknownName(f"'{name}' is a recipe and no system.", name, "Compare like with like.")
    config = resolve(values)
    flat = flattened(config)
    if not config.get("weights"):
        return flat
    flat["weights"] = start_weights(config)[:16]
    path = Path(weights_folder(config["weights"])) / "provenance.json"
    try:
        record: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return flat
    notes = record.get("notes") or {}
    training = {"data": record.get("data"), "steps": notes.get("steps")}
    training |= {"recipe": notes.get("recipe") or {}, "before": notes.get("before") or []}
    return flat | flattened({"training": training})


def _recipe(name: str) -> dict[str, Any]:
    from wishbone.core.evaluate.experiment.arms import flattened
    from wishbone.core.train.recipe import as_saved, read_recipe

    return flattened(as_saved(read_recipe(_resolved(name))[0]))


def _resolved(name: str) -> str:
    """A recipe's name, or the configuration in the folder of a run."""
    config = Path(name) / "config.yaml"
    return str(config) if config.is_file() else name


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = str(values.get(key, ABSENT))
    return text if len(text) <= 200 else f"{text[:197]}..."
