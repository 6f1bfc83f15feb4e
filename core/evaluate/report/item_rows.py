"""``items.csv``: one row for each item, for a notebook.

import pandas
items = pandas.read_csv("runs/quickstart/items.csv")
items.pivot_table(index="prompt", columns="arm", values="wer")
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wishbone.core.contract.atomic import replacing, write_text
from wishbone.core.contract.errors import DataError
from wishbone.core.contract.extensions.optional import need
from wishbone.core.evaluate.experiment.items import Items
from wishbone.core.evaluate.experiment.plan import Plan
from wishbone.core.evaluate.statistics.counts import KINDS
from wishbone.core.evaluate.statistics.metrics import value

FILE = "items.csv"
FACTS = (
    "seed",
    "seconds",
    "codes",
    "made",
    "processor",
    "load",
    "others",
    "stall",
    "redraws",
    "trouble",
    "words",
    "errors",
    *KINDS,
)
"""Facts of an item's row that are columns as they are."""


def write_items(plan: Plan, items: Items, out: Path) -> Path:
    """Write the table into ``out`` and return its path."""
    text = io.StringIO()
    names = ["arm", "checkpoint", "prompt", "repeat", "failure", *plan.metrics]
    names += [name for name in FACTS if name not in names]
    writer = csv.DictWriter(text, [*names, "text", "heard", "audio"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(plan, items))
    write_text(out / FILE, text.getvalue())
    return out / FILE


def copy_items(folder: Path, target: Path) -> Path:
    """Copy a run's table to a ``.csv`` or, with pyarrow, a ``.parquet`` file; returns its path.

    Raises ``DataError`` where the run has no table, ``MissingExtra`` without pyarrow.
    """
    table = folder / FILE
    if not table.is_file():
        raise DataError(
            f"The run has no {FILE}.",
            str(folder),
            "Run the comparison again: it goes on where it was and writes the table.",
        )
    if target.suffix == ".csv":
        write_text(target, table.read_text(encoding="utf-8"))
        return target
    reader = need("pyarrow.csv", "pyarrow", "write Parquet")
    # a prompt's number keeps its zeros
    texts = reader.ConvertOptions(column_types={"prompt": "string"})
    with replacing(target) as part:
        need("pyarrow.parquet", "pyarrow", "write Parquet").write_table(
            reader.read_csv(table, convert_options=texts), part
        )
    return target


def rows(plan: Plan, items: Items) -> Iterator[dict[str, Any]]:
    """One row for each item; a metric's column holds what the statistics take, or nothing."""
    for arm in plan.arms:
        for checkpoint in arm.checkpoints:
            for prompt in plan.prompts:
                for repeat in range(plan.seeds):
                    item = items.get(checkpoint.key, prompt.key, repeat)
                    facts = {name: item.row.get(name) for name in FACTS}
                    values = {key: value(item.row, info) for key, info in plan.metrics.items()}
                    names = {
                        "arm": arm.key, "checkpoint": checkpoint.key, "prompt": prompt.key,
                        "repeat": repeat, "failure": item.failure, "text": item.text,
                        "heard": item.transcript, "audio": item.audio,
                    }  # fmt: skip
                    yield {**facts, **values, **names}
