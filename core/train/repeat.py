"""``wishbone train --like SYSTEM``: the very recipe of trained weights, with another backbone.

The recipes of all trainings that made the weights stand in their ``provenance.json``. Each becomes
a YAML file beside the run, and a run of its own that goes on from the one before.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wishbone.core.config.compose import bundled, dump, weights_folder
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import ConfigError, DataError
from wishbone.core.data.corpus_files import corpus_files
from wishbone.core.system.spec import read
from wishbone.core.train.recipe import RUNNING, Recipe, as_saved, read_recipe
from wishbone.core.train.run import run
from wishbone.core.weights.provenance import hash_files, start_folders, trainings

PLACES = ("out", "weights", "system")
"""Fields of a recorded recipe that name places of the machine it ran on."""


def stages_of(name: str) -> list[dict[str, Any]]:
    """The trainings of a system's weights, first one first: each ``data``, ``steps``, ``recipe``.

    Raises ``ConfigError`` where nothing is recorded.
    """
    weights = read(name).get("weights")
    folder = weights_folder(str(weights))
    stages = trainings(folder) if weights else []
    if not stages:
        raise ConfigError(
            f"Nobody recorded how the weights of '{name}' were trained.",
            str(folder if weights else name),
            "Name a bundled arm, such as quickstart-rwkv7, or the export of a training.",
        )
    return stages


def repeat(name: str, words: Sequence[str], change: bool = False, dry_run: bool = False) -> int:
    """Train as the weights of the system ``name`` were trained, all stages; returns the exit code.

    ``dry_run`` prints the recipes and trains nothing.

    ``words`` are ``key=value``: ``system=`` is the other system, ``out=`` the run's folder, all
    else changes every stage. A stage that is done is passed over; one that somebody stopped ends
    the rest, and the same call goes on. Raises ``ConfigError`` without ``system`` and ``out``.
    """
    values = dict(word.partition("=")[::2] for word in words)
    missing = [key for key in ("system", "out") if not values.get(key)]
    if missing:
        raise ConfigError(
            f"'{missing[0]}=' is missing: what is trained like '{name}', and the run's folder.",
            "wishbone train --like",
            f"Write: wishbone train --like {name} system=mine.yaml out=runs/mine",
        )
    others = [word for word in words if not word.startswith(("out=", "system="))]
    strange = [word for word in words if "=" not in word]
    if strange:
        raise ConfigError(
            f"'{strange[0]}' is no key=value.", "wishbone train --like", "Leave the recipe out."
        )
    stages = list(recipes(name, values["system"], Path(values["out"])))
    # read before anything is written, so that a mistake leaves nothing behind
    read_stages = [_read(recipe, others) for _, _, recipe in stages]
    if dry_run:
        for (title, _, _), recipe in zip(stages, read_stages, strict=True):
            print(f"# {title}\n{dump(as_saved(recipe))}", end="")
        return 0
    files = write_recipes(stages)
    for number, (file, recipe) in enumerate(zip(files, read_stages, strict=True), 1):
        last = number == len(files)
        export = (Path(values["out"]) if last else file.with_suffix("")) / "export"
        if not last and (export / "config.yaml").is_file():
            _need_same(recipe, export, change)
            continue
        print(f"stage {number} of {len(files)}: {file}", file=sys.stderr, flush=True)
        code = run(str(file), others, change)
        if code or not (export / "config.yaml").is_file():
            return code
    return 0


def _read(recipe: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """Read a recipe as it will be read from its file, but for weights that are not made yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        # the stage before makes the weights; that they are missing now is no mistake
        write_text(file, dump({k: v for k, v in recipe.items() if k != "weights"}))
        result, system = read_recipe(str(file), overrides)
    if start_folders(system):
        raise ConfigError(
            "The system begins with weights, and the recipe is repeated from the start.",
            "a 'weights:' in system=",
            "Leave 'weights' of backbone and head out.",
        )
    return result


def _need_same(recipe: Recipe, export: Path, change: bool) -> None:
    """Raise ``ConfigError`` where a stage that is done was another one, unless ``change``."""
    stages = trainings(export)
    before, now = (stages[-1]["recipe"] if stages else {}), as_saved(recipe)
    keys = [key for key in before if key not in (*RUNNING, *PLACES) and before[key] != now.get(key)]
    keys += ["backbone"] if read(str(export))["backbone"] != now["system"]["backbone"] else []
    if keys and not change:
        raise ConfigError(
            f"A stage that is done was trained with another {', '.join(keys)}.",
            str(export),
            "Choose another out=, or go on with --change.",
        )


def write_recipes(stages: Sequence[tuple[str, Path, dict[str, Any]]]) -> list[Path]:
    """Write the recipe of every stage to its file -> the files in order."""
    files: list[Path] = []
    for title, file, recipe in stages:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"# {title}\n{dump(recipe)}")
        files.append(file)
    return files


def recipes(name: str, system: str, out: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Yield title, file beside ``out`` and recipe of every stage; the last one's run is ``out``.

    ``system`` takes the place of the one that was trained, untrained. A stage whose data is not on
    this machine takes what lies under the same names, and a line on standard error says so. Raises
    ``DataError`` where there is nothing.
    """
    every = stages_of(name)
    base = str(Path(system).absolute()) if Path(system).exists() else system
    for number, stage in enumerate(every, 1):
        last = number == len(every)
        recipe = {k: v for k, v in (stage.get("recipe") or {}).items() if k not in PLACES}
        known = as_saved(Recipe())
        recipe = {key: value for key, value in recipe.items() if key in known}
        untrained = {"base": base, "weights": None}
        recipe |= {"system": untrained, "out": str(out if last else _beside(out, number))}
        recipe |= _data(recipe, stage.get("data"), f"stage {number} of {name}")
        if number > 1:
            recipe["weights"] = str((_beside(out, number - 1) / "export").absolute())
        title = f"Stage {number} of {len(every)} of {name}'s training."
        yield title, _beside(out, number).with_suffix(".yaml"), recipe


def _beside(out: Path, number: int) -> Path:
    return out.with_name(f"{out.name}-stage-{number}")


def _data(recipe: Mapping[str, Any], digest: str | None, stage: str) -> dict[str, Any]:
    """``data`` and ``held_out`` as they lie here, with a warning where the contents are others."""
    data = recipe.get("data")
    paths = [data] if isinstance(data, str) else list(data or [])
    sources = [_here(str(source), stage) for source in paths]
    held_out = recipe.get("held_out")
    if isinstance(held_out, str):
        held_out = _here(held_out, stage)
    elif isinstance(held_out, list):
        held_out = [_here(str(one), stage) for one in held_out]
    files = [file for one in sources for file in corpus_files(Path(weights_folder(one)))]
    if digest and hash_files(files) != digest:
        print(
            f"note: {stage} was trained on other data, which is not here;"
            f" {', '.join(sources)} takes its place",
            file=sys.stderr,
        )
    return {"data": sources, **({"held_out": held_out} if held_out is not None else {})}


def _here(source: str, stage: str) -> str:
    """A recorded path where it exists, else bundled tokens of the same file name."""
    if Path(source).exists() or weights_folder(source).exists():
        return source
    names = sorted((bundled() / "tokens").glob(f"*/{Path(source).name}"))
    if not names:
        raise DataError(
            f"The data of {stage} is not here.", source, "Put it there, or train by a recipe."
        )
    return str(names[0].relative_to(bundled()))
