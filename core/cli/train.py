"""``wishbone train CONFIG key=value ...``: begin a run, or go on with the one in its folder.

The same command under ``torchrun --nproc-per-node N -m wishbone train ...`` uses N processes; a
budget of ``batch_positions`` each makes the same batches as one process with N times the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wishbone.core.cli.arguments import argument, option, parse
from wishbone.core.cli.bundled import listing
from wishbone.core.contract.errors import UsageError

EXAMPLES = (
    "examples:",
    "  wishbone train quickstart-rwkv7",
    "  wishbone train quickstart-rwkv7 steps=500 out=runs/short learning_rate=5e-4",
    "  wishbone train quickstart system=mine.yaml out=runs/mine max_minutes=10",
    "  wishbone train --like quickstart-rwkv7 system=mine.yaml out=runs/mine",
    "  wishbone train my.yaml data=data/tokens system.layout.form=unistream",
    "  torchrun --nproc-per-node 4 -m wishbone train quickstart-rwkv7 shard=full",
    "",
    "'wishbone evaluate' and 'wishbone say --system runs/NAME/export' try what was trained. Every",
    "key of a recipe, with its default, stands in core/train/recipe.py.",
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a model by a recipe, a YAML file, or go on with the run in its folder.

    Stopping it by Ctrl-C leaves a checkpoint, and the same command goes on from there.
    """

    config: str | None = argument(None, help="a recipe: the name of a bundled one, or a YAML file")
    overrides: list[str] = argument(
        [], metavar="key=value", help="changes to the recipe, such as steps=500 or data=FOLDER"
    )
    like: str = option(
        "", metavar="SYSTEM",
        help="instead of a recipe: repeat every training of this system's weights, in the same"
        " order, with system=YOURS and out=FOLDER",
    )  # fmt: skip
    dry_run: bool = option(
        False, help="print the recipe with the system resolved in it, and train nothing"
    )
    change: bool = option(
        False, help="go on with a run although its recipe was another one than this"
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; 130 when it was told to stop and left a checkpoint."""
    options = parse(TrainOptions, argv, "wishbone train", _epilogue)
    words = [] if options.config is None else [options.config]
    if options.like:
        from wishbone.core.train.repeat import repeat

        return repeat(options.like, [*words, *options.overrides], options.change, options.dry_run)
    if options.config is None:
        raise UsageError("No recipe is named.", "wishbone train", "Try 'wishbone train --help'.")
    if options.dry_run:
        from wishbone.core.config.compose import dump
        from wishbone.core.train.recipe import as_saved, read_recipe

        print(dump(as_saved(read_recipe(options.config, options.overrides)[0])), end="")
        return 0
    # after parsing, so that --help and mistakes need no torch
    from wishbone.core.train.run import run

    return run(options.config, options.overrides, options.change)


def _epilogue() -> str:
    return listing("bundled recipes", "train", ["", *EXAMPLES])
