"""``wishbone convert``: weights of other projects in, and out again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wishbone.core.cli.arguments import argument, option, parse
from wishbone.core.cli.bundled import two_columns
from wishbone.core.contract.errors import CheckpointError, UsageError
from wishbone.core.registry.loader import registry

EXAMPLES = """
examples:
  wishbone convert FORMAT their-file my-backbone
  wishbone convert FORMAT my-backbone their-file --out
  wishbone convert FORMAT their-file another-file --to OTHER-FORMAT --list

Every tensor keeps its bits, and nothing is overwritten. A plug-in can bring another format:
'wishbone plugins new NAME --kind converter' writes one to begin with."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Bring weights in from other projects' files, and out into them."""

    format: str = argument(metavar="FORMAT", help="one of the formats below")
    source: Path = argument(
        metavar="SOURCE", help="their file or folder; with --out, our checkpoint folder"
    )
    target: Path = argument(
        metavar="TARGET", help="our new checkpoint folder; with --out or --to, their file or folder"
    )
    out: bool = option(False, help="the other way: from ours to theirs")
    to: str | None = option(
        None,
        metavar="FORMAT",
        help="from FORMAT straight to this one, with no step between",
    )
    list: bool = option(False, help="print what became of the name of every tensor")


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    options = parse(ConvertOptions, argv, "wishbone convert", _epilogue)
    from wishbone.core.cli.conversion import bring_in, bring_out, find_format, pass_on

    source_format = find_format(options.format)
    target_format = find_format(options.to) if options.to else None
    if options.target.exists():
        raise CheckpointError(
            "The target exists already and is not overwritten.",
            str(options.target),
            "Choose another name, or move this one away.",
        )
    if options.out and target_format:
        raise UsageError("--out and --to exclude each other.", "wishbone convert", "Drop one.")
    if options.out:
        bring_out(source_format, options.source, options.target)
    elif target_format:
        pass_on(source_format, target_format, options.source, options.target, options.list)
    else:
        bring_in(source_format, options.source, options.target, options.list)
    return 0


def _epilogue() -> str:
    rows = [(entry.key, entry.summary) for entry in registry().of("converter")]
    lines = two_columns(rows) or ["  no converter is installed"]
    return "\n".join(["formats:", *lines, EXAMPLES])
