"""``wishbone match A.yaml B.yaml``: the size of B's backbone at which both models cost the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wishbone.core.cli.arguments import argument, option, parse
from wishbone.core.contract.part import NonNegative

EXAMPLES = """examples:
  wishbone match quickstart-transformer mine.yaml
  wishbone match a.yaml b.yaml --tolerance 0.002"""


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """Find the width and depth of B's backbone at which A and B have equally many parameters.

    Prints the line to put into B's file. Nothing is written.
    """

    a: str = argument(metavar="A", help="the system whose size is kept: a name or a YAML file")
    b: str = argument(metavar="B", help="the system whose backbone is sized: a name or a YAML file")
    tolerance: NonNegative = option(
        0.01, metavar="SHARE", help="how far from A's size is near enough, as a share; 0.01 is 1 %"
    )


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    options = parse(MatchOptions, argv, "wishbone match", EXAMPLES)
    import yaml

    from wishbone.core.config.compose import compose
    from wishbone.core.evaluate.experiment.match_size import match
    from wishbone.core.system.spec import read

    a, b = read(options.a), read(options.b)
    size = match(a, b, options.tolerance)
    name = b["backbone"]["name"]
    print(f"A  {a['backbone']['name']:<14}{size.target:>12,} parameters  ({options.a})")
    print(f"B  {name:<14}{size.parameters:>12,} parameters  ({options.b})")
    print(f"B is {100 * size.difference:+.2f} % of A in size" if size.difference else "equal")
    # every field that B's file sets stays, and those that the size follows from come with it
    section = {**compose(options.b)["backbone"], **size.fields}
    section.pop("weights", None)
    line = yaml.safe_dump(section, default_flow_style=True, sort_keys=False, width=10_000)
    print(f"\nput this into {options.b}:\n\nbackbone: {line.strip()}")
    return 0
