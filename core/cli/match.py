"""``wishbone match A.yaml B.yaml``: the size of B's backbone at which both models cost the same."""

from __future__ import annotations

from collections.abc import Sequence

from wishbone.core.cli.arguments import Parser
from wishbone.core.evaluate.experiment.match_size import match


def main(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit code."""
    parser = Parser(prog="wishbone match", description=__doc__)
    parser.add_argument("a", help="the system whose size is kept: a name or a YAML file")
    parser.add_argument("b", help="the system whose backbone is sized")
    parser.add_argument("--tolerance", type=float, default=0.01, help="share of A; 0.01 is 1 %%")
    options = parser.parse_args(argv)
    from wishbone.core.system.spec import read

    a, b = read(options.a), read(options.b)
    found = match(a, b, options.tolerance)
    name = b["backbone"]["name"]
    print(f"A  {a['backbone']['name']:<14}{found.target:>12,} parameters  ({options.a})")
    print(f"B  {name:<14}{found.parameters:>12,} parameters  ({options.b})")
    print(f"B is {100 * found.difference:+.2f} % of A in size" if found.difference else "equal")
    changed = ", ".join(f"{key}: {value}" for key, value in found.fields.items())
    print(f"\nput this into {options.b}:\n\nbackbone: {{name: {name}, {changed}}}")
    return 0
