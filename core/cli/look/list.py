"""``wishbone list recipes|systems|experiments``: what comes with Wishbone, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wishbone.core.cli.arguments import argument, parse
from wishbone.core.cli.bundled import first_sentence, listing, two_columns
from wishbone.core.contract.errors import UnknownName, did_you_mean
from wishbone.core.registry.shipped import shipped

FOLDERS = {"recipes": "train", "systems": "system", "experiments": "ab"}
"""Word -> folder of the configurations."""
EXAMPLES = """examples:
  wishbone list systems
  wishbone list recipes"""


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List the configurations that a command takes by name, each with its first sentence.

    'train' takes recipes, 'say --system' systems, and 'ab' experiments; 'wishbone plugins list'
    has the parts that systems are made of.
    """

    what: str | None = argument(
        None, metavar="WHAT", help="recipes, systems or experiments; without a word all of them"
    )


def main(argv: Sequence[str]) -> int:
    """Print one list, or all of them; returns the exit code."""
    options = parse(ListOptions, argv, "wishbone list", EXAMPLES)
    if options.what is not None and options.what not in FOLDERS:
        raise UnknownName(
            f"There is no list of '{options.what}'.",
            "wishbone list",
            did_you_mean(options.what, FOLDERS) or f"There are: {', '.join(FOLDERS)}.",
        )
    chosen = list(FOLDERS) if options.what is None else [options.what]
    print("\n\n".join(listing(word, FOLDERS[word], _of_plugins(FOLDERS[word])) for word in chosen))
    return 0


def _of_plugins(folder: str) -> list[str]:
    """Lines of the configurations that installed plug-ins bring."""
    rows = [(name, first_sentence(path.read_text("utf-8"))) for name, path in
            shipped(folder).items()]  # fmt: skip
    return ["", "from plug-ins:", *two_columns(rows)] if rows else []
