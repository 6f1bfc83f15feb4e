"""``wishbone ab show``, ``ab diff`` and ``ab replay``: results of comparisons that are done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wishbone.core.cli.arguments import argument, option, parse_subcommand
from wishbone.core.contract.errors import DataError, UsageError

EXAMPLES = """examples:
  wishbone ab show runs/quickstart
  wishbone ab show runs/quickstart --items items.parquet
  wishbone ab diff runs/monday runs/friday
  wishbone ab replay runs/quickstart --out runs/again"""
KINDS = (".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Print the tables and sentences of a result again."""

    run: Path = argument(metavar="RUN", help="the folder of a comparison, or its ab.json")
    items: Path | None = option(
        None, metavar="FILE", default_text="not written",
        help="write a row for each recording with all its values: .csv or .parquet",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """Compare two results: each arm's values, and all that differs between the runs."""

    before: Path = argument(metavar="RUN", help="the folder of a comparison, or its ab.json")
    after: Path = argument(metavar="OTHER", help="another one")


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Repeat a comparison by the command it was made with, and say what changed.

    The A/B file that the command names must still be there. The new run has a folder of its own.
    """

    run: Path = argument(metavar="RUN", help="the folder of a comparison, or its ab.json")
    out: Path = option(
        Path("ab-again"), metavar="FOLDER", help="where the new recordings and report are written"
    )


SUBCOMMANDS = {"show": ShowOptions, "diff": DiffOptions, "replay": ReplayOptions}


def main(argv: Sequence[str], compare: Callable[[Sequence[str]], int]) -> int:
    """Run one of them; returns the exit code. ``compare`` is ``wishbone ab``, for 'replay'."""
    about = "Print a result again, compare two, or repeat one."
    options = parse_subcommand(argv, "wishbone ab", about, SUBCOMMANDS, EXAMPLES)
    if isinstance(options, ShowOptions):
        return _show(options)
    if isinstance(options, DiffOptions):
        return _diff(options.before, options.after)
    assert isinstance(options, ReplayOptions)
    return _replay(options, compare)


def result_file(run: Path) -> Path:
    """The ``ab.json`` of a folder, or the file that was named. Raises ``DataError``."""
    path = run / "ab.json" if run.is_dir() else run
    if not path.is_file():
        raise DataError(
            "There is no result of a comparison here.",
            str(path),
            "Give the folder that 'wishbone ab --out' wrote, once the comparison is done.",
        )
    return path


def _show(options: ShowOptions) -> int:
    from wishbone.core.evaluate.report import item_rows, terminal
    from wishbone.core.evaluate.report.markdown import read_result

    if options.items and options.items.suffix not in KINDS:
        raise UsageError(
            f"'{options.items.suffix}' is no kind of table.",
            "--items",
            f"End the name in {' or '.join(KINDS)}.",
        )
    file = result_file(options.run)
    terminal.show(read_result(file))
    if options.items:
        print(item_rows.copy_items(file.parent, options.items))
    return 0


def _diff(before: Path, after: Path) -> int:
    from wishbone.core.evaluate.report import run_tables
    from wishbone.core.evaluate.report.markdown import read_result
    from wishbone.core.report import table

    one, other = read_result(result_file(before)), read_result(result_file(after))
    values, conditions = run_tables.values(one, other), run_tables.conditions(one, other)
    if not values.rows:
        print("The results have no arm and metric in common.")
    else:
        table.show(values)
        print("Exploratory: nobody planned to compare these runs, so no verdict is given.")
    if conditions.rows:
        table.show(conditions)
    else:
        print("Nothing else differs.")
    return 0


def _replay(options: ReplayOptions, compare: Callable[[Sequence[str]], int]) -> int:
    from wishbone.core.evaluate.report.markdown import read_result

    file = result_file(options.run)
    words = read_result(file).provenance.command[2:]
    if not words or any(word.startswith("--page") for word in words):
        raise DataError(
            "The result does not say by which command it was made.",
            str(file),
            "Run 'wishbone ab NAME' again, and compare the two with 'wishbone ab diff'.",
        )
    if options.out.exists():
        raise UsageError(
            "The folder of the new run exists.", str(options.out), "Choose another --out."
        )
    words = _without_out(words)
    print(f"repeating: wishbone ab {' '.join(words)}", file=sys.stderr)
    code = compare([*words, "--out", str(options.out)])
    return code or _diff(file, options.out)


def _without_out(words: Sequence[str]) -> list[str]:
    """The words of a command without its folder and its limits."""
    remaining, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in ("--out", "--fail-if"):
            skip = True
        elif not word.startswith(("--out=", "--fail-if=")):
            remaining.append(word)
    return remaining
