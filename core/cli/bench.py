"""``wishbone bench SUITE...``: speed, memory and latency beside peers, as ratios in one run.

Bundled suites: decode, growth, prefill, kernel, speech. ``key=value`` changes a suite
(``rounds=15``); ``decode.rounds=15`` changes only the suite of that name. The last line printed is
the verdict; the exit code is 4 when a ratio missed what it had to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wishbone.core.cli.arguments import Parser
from wishbone.core.contract.errors import GATE, UsageError

if TYPE_CHECKING:
    from wishbone.core.bench.records import BenchResult


def main(argv: list[str]) -> int:
    """Run the command; 4 when a ratio was missed or results differ, else 0."""
    parser = Parser("wishbone bench", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "suites", nargs="+", metavar="SUITE",
        help="decode, growth, prefill, kernel, speech or a YAML file; key=value changes them",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="new folder for bench.json and bench.html")
    parser.add_argument("--rounds", type=int, help="turns of every contender that count")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that all works; no verdict"
    )
    options = parser.parse_args(argv)
    names = [word for word in options.suites if "=" not in word]
    overrides = [word for word in options.suites if "=" in word]
    _check(names, options.out)
    # after parsing, so that --help and mistakes need no torch
    from wishbone.core.bench.analysis import bench
    from wishbone.core.bench.suite import read_plan
    from wishbone.core.bench.summary import show

    plans = [
        read_plan(name, own_overrides(name, names, overrides), options.quick, options.rounds)
        for name in names
    ]
    result = bench(plans, argv, options.quick)
    if options.out is not None:
        keep(result, options.out)
    show(result)
    return GATE if result.outcome == "missed" else 0


def keep(result: BenchResult, folder: Path) -> None:
    """Write ``bench.json`` and ``bench.html`` into a new folder, and say so."""
    from wishbone.core.bench.page import write_page
    from wishbone.core.bench.records import write_result
    from wishbone.core.report.progress import say

    folder.mkdir(parents=True, exist_ok=True)
    for path in (write_result(result, folder), write_page(result, folder)):
        say(f"wrote {path}")


def own_overrides(name: str, names: Sequence[str], words: Sequence[str]) -> list[str]:
    """The words that concern the suite ``name``, without its name."""
    stem = Path(name).stem
    stems = {Path(other).stem for other in names}
    own = []
    for word in words:
        first, dot, rest = word.partition(".")
        if not dot or first not in stems or "=" in first:
            own.append(word)
        elif first == stem:
            own.append(rest)
    return own


def _check(names: Sequence[str], out: Path | None) -> None:
    if not names:
        raise UsageError(
            "No suite is named.", "wishbone bench", "Name one, such as 'wishbone bench decode'."
        )
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            "The folder for the results exists and holds something.",
            str(out),
            "Name a new folder; results are never overwritten.",
        )
