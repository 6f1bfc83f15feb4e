"""``wishbone runs``: the trainings below a folder, with their steps, losses and exports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.cli.arguments import argument, parse
from wishbone.core.contract.errors import UsageError

EXAMPLES = """examples:
  wishbone runs
  wishbone runs mine-ab/train"""
HEAD = ("run", "steps", "loss", "held-out", "minutes", "export")


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    """Show every training below a folder: how far it is, its losses, and what it exported."""

    folder: Path = argument(Path("runs"), metavar="FOLDER", help="where to look")


def main(argv: Sequence[str]) -> int:
    """Print the table; returns the exit code. Raises ``UsageError`` where there is no training."""
    options = parse(RunsOptions, argv, "wishbone runs", EXAMPLES)
    rows = [_row(folder, options.folder) for folder in _runs(options.folder)]
    if not rows:
        raise UsageError(
            "There is no training here.",
            str(options.folder),
            "Name the folder of one or several runs: wishbone runs FOLDER",
        )
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    for row in (HEAD, *rows):
        first, *cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([first, *cells]).rstrip())
    return 0


def _runs(folder: Path) -> Iterator[Path]:
    """Folders of trainings: the folder itself, or all below it that have a log."""
    for log in sorted(folder.glob("**/log.jsonl")):
        if (log.parent / "config.yaml").is_file():
            yield log.parent


def _row(run: Path, folder: Path) -> tuple[str, ...]:
    last: dict[str, Any] = {}
    for line in (run / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            # a write that a kill cut short
            continue
        last |= entry if isinstance(entry, dict) else {}
    elapsed, steps, planned = last.get("elapsed"), last.get("step", 0), _planned(run)
    name = str(run.relative_to(folder)) if run != folder else str(run)
    return (
        name,
        f"{steps} of {planned}" if planned else str(steps),
        _number(last.get("loss")),
        _number(last.get("held_out")),
        f"{elapsed / 60:.1f}" if isinstance(elapsed, int | float) else "-",
        _export(run),
    )


def _planned(run: Path) -> int | None:
    """Steps of the whole run: those that were fitted to its time, or its recipe's."""
    try:
        return int(json.loads((run / "fitted.json").read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    text = (run / "config.yaml").read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        # a key of the first level; reading it as YAML would take longer than all else
        if line.startswith("steps: ") and line.removeprefix("steps: ").isdigit():
            return int(line.removeprefix("steps: "))
    return None


def _export(run: Path) -> str:
    """The newest export, and the step that it is of."""
    exports = sorted(run.glob("export*/provenance.json"), key=lambda path: path.stat().st_mtime)
    if not exports:
        return "none yet"
    try:
        steps = json.loads(exports[-1].read_text(encoding="utf-8"))["notes"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        steps = "unknown"
    return f"{exports[-1].parent} (step {steps})"


def _number(value: float | None) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"
