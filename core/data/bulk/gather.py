"""Gathering what parts made: all there, each once, of one configuration; then one report.

Of token data the index for training is written, too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import DataError
from wishbone.core.data.bulk.bulk_part import ITEMS, MARK, finished
from wishbone.core.data.bulk.token_index import INDEX, write_index
from wishbone.core.data.parquet import TEXT, arrow, read_schema, read_table
from wishbone.core.data.shards import REPORT, REPORTS, Report, gathered
from wishbone.core.data.tokens import METADATA
from wishbone.core.scale.step import work_of

AGAIN = "Repeat the command that makes them, then gather again."
NAMED = 8
"""Names that an error has room for."""


def gather(folder: str | Path) -> dict[str, Any]:
    """Check a folder that parts wrote and write its report, and of token data its index.

    Returns the report, without the shards. Raises ``DataError`` where a part is missing, where an
    utterance is there twice, where a file belongs to no part, or where parts have other settings.
    """
    folder = Path(folder)
    if (folder / MARK).is_file():
        return _gather_items(folder)
    report = gathered(folder)
    _require_complete(report)
    _require_unique(report)
    data = report.as_data() | {"work": _work(folder)}
    if _is_token_data(report):
        write_index(folder)
    write_text(folder / REPORT, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    for path in (folder / REPORTS).glob("*.lock"):
        # nobody waits for them any more
        path.unlink(missing_ok=True)
    index = {"index": str(folder / INDEX)} if _is_token_data(report) else {}
    shards = {"shards": len(report.shards)}
    return {**(report.settings or {}), **shards, **report.total(), **data["work"], **index}


def _require_complete(report: Report) -> None:
    """Raise ``DataError`` for shards that are missing and for files that nobody reports of."""
    names = report.expected.keys() | report.shards.keys()
    missing = [
        name
        for name in sorted(names)
        if not report.done(name) or report.count(name) < report.expected.get(name, 0)
    ]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} shards are missing: {_few(missing)}.",
            str(report.folder),
            AGAIN,
        )
    files = {path.stem for path in report.folder.glob("*.parquet")}
    if unknown := sorted(files - names):
        raise DataError(
            f"No report tells of {len(unknown)} files: {_few(unknown)}.",
            str(report.folder),
            "Move them elsewhere: nobody knows what they are.",
        )


def _require_unique(report: Report) -> None:
    """Raise ``DataError`` where two rows have one id, or a file other rows than its report says."""
    names, columns = sorted(report.shards), []
    for name in names:
        path = report.folder / f"{name}.parquet"
        columns.append(read_table(path, {"id": TEXT}).column("id"))
        if len(columns[-1]) != report.shards[name]["kept"]:
            raise DataError(
                f"The file has {len(columns[-1])} utterances, its report says"
                f" {report.shards[name]['kept']}.",
                str(path),
                "Remove the file. " + AGAIN,
            )
    compute = arrow().compute
    ids = arrow().chunked_array([c for column in columns for c in column.chunks], "string")
    counts = compute.value_counts(ids)
    counts = counts.filter(compute.greater(counts.field("counts"), 1))
    if len(counts):
        identity = counts.field("values")[0].as_py()
        homes = [
            name
            for name, column in zip(names, columns, strict=True)
            if compute.index(column, identity).as_py() >= 0
        ]
        raise DataError(
            f"{len(counts)} utterances are there twice, such as '{identity}'.",
            str(report.folder / f"{homes[-1]}.parquet"),
            "Give each utterance its own id, and sources that share ids folders of their own.",
        )


def _is_token_data(report: Report) -> bool:
    files = sorted(report.folder.glob("*.parquet"))
    return bool(files) and METADATA in (read_schema(files[0]).metadata or {})


def _gather_items(folder: Path) -> dict[str, Any]:
    """The same of a list that was spoken."""
    try:
        mark = dict(json.loads((folder / MARK).read_bytes()))
        total = int(mark["items"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The file is damaged: {error}.", str(folder / MARK), "Speak the list again."
        ) from error
    rows = finished(folder)
    if len(rows) < total or not (folder / ITEMS).is_file():
        raise DataError(
            f"{total - len(rows)} of {total} items are missing.",
            str(folder),
            "Repeat the 'wishbone synth' that speaks them, then gather again.",
        )
    lines = (folder / ITEMS).read_text(encoding="utf-8").splitlines()
    if Counter(json.loads(line)["id"] for line in lines) != Counter(rows.keys()):
        raise DataError(
            f"{ITEMS} has other items than the parts.",
            str(folder / ITEMS),
            "Remove it and repeat the 'wishbone synth' that speaks the list.",
        )
    reasons = Counter(row["failure"].partition(" | ")[0] for row in rows.values())
    del reasons[""]
    seconds = sum(row["seconds"] for row in rows.values())
    report = {
        "settings": mark,
        "total": {
            "kept": total - sum(reasons.values()),
            "hours": round(seconds / 3600, 3),
            "failures": dict(reasons.most_common()),
        },
        "work": _work(folder),
    }
    write_text(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return {"items": total, **report["total"], **report["work"]}


def _work(folder: Path) -> dict[str, Any]:
    """Sums of the work that parts wrote down; {} where there is none."""
    parts = work_of(folder)
    if not parts:
        return {}
    rate = _rate(parts)
    return {
        "starts of parts": len(parts),
        "machines": len({part.host for part in parts}),
        "processor hours": round(sum(part.processor_seconds for part in parts) / 3600, 4),
        **rate,
    }


def _rate(parts: Sequence[Any]) -> Mapping[str, float]:
    speech = sum(part.speech_seconds for part in parts)
    processor = sum(part.processor_seconds for part in parts)
    if not speech or not processor:
        return {}
    return {"seconds of speech in a second of a processor": round(speech / processor, 2)}


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
