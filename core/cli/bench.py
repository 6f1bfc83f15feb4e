"""``wishbone bench SUITE...``: speed, memory and latency beside peers, as ratios in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wishbone.core.cli.arguments import argument, option, parse
from wishbone.core.cli.bundled import listing
from wishbone.core.contract.errors import GATE, UsageError
from wishbone.core.contract.part import Size

if TYPE_CHECKING:
    from wishbone.core.bench.records import BenchResult


EXAMPLES = (
    "examples:",
    "  wishbone bench decode --quick",
    "  wishbone bench decode prefill --out bench-today",
    "  wishbone bench decode speech rounds=15 decode.count=30",
    "",
    "key=value changes every suite that is named, and decode.key=value only 'decode'. The last",
    "line printed is the verdict; the exit code is 4 when a ratio missed its target.",
)


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure speed, memory and latency beside other projects, as ratios within one run."""

    suites: list[str] = argument(
        metavar="SUITE", help="the suites to run: bundled ones, or YAML files; and key=value"
    )
    out: Path | None = option(
        None, metavar="FOLDER", help="write bench.json and bench.html into this new folder"
    )
    rounds: Size | None = option(
        None, metavar="N", default_text="the suite's 'rounds'",
        help="how often every contender has its turn; more makes the intervals narrower",
    )  # fmt: skip
    quick: bool = option(
        False, help="a smoke test: tiny sizes, to see that all works, without a verdict"
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; 4 when a ratio was missed or results differ, else 0."""
    options = parse(BenchOptions, argv, "wishbone bench", _epilogue)
    names = [word for word in options.suites if "=" not in word]
    overrides = [word for word in options.suites if "=" in word]
    _require_suites_and_new_folder(names, options.out)
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
        write_report(result, options.out)
    show(result)
    return GATE if result.outcome == "missed" else 0


def write_report(result: BenchResult, folder: Path) -> None:
    """Write ``bench.json`` and ``bench.html`` into a new folder, and tell where."""
    from wishbone.core.bench.page import write_page
    from wishbone.core.bench.records import write_result
    from wishbone.core.report.progress import say

    folder.mkdir(parents=True, exist_ok=True)
    for path in (write_result(result, folder), write_page(result, folder)):
        say(f"wrote {path}")


def own_overrides(name: str, names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the words that concern the suite ``name``, without its name."""
    stem = Path(name).stem
    stems = {Path(other).stem for other in names}
    overrides = []
    for word in words:
        first, dot, remaining = word.partition(".")
        if not dot or first not in stems or "=" in first:
            overrides.append(word)
        elif first == stem:
            overrides.append(remaining)
    return overrides


def _epilogue() -> str:
    return listing("bundled suites", "bench", ["", *EXAMPLES])


def _require_suites_and_new_folder(names: Sequence[str], out: Path | None) -> None:
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
