"""Figures of a set of clips on the terminal and in a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.extensions.metric import Row
from wishbone.core.evaluate.measure.score import Panel, summarize, weighted_mean
from wishbone.core.evaluate.prompts.slices import rates
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.statistics.agreement import agreements, recognisers
from wishbone.core.evaluate.statistics.metrics import QUALITY, metric_class


def report(title: str, rows: Sequence[Row], items: bool = False) -> None:
    """Print the numbers of a set of clips, and each clip's when ``items``."""
    if items:
        for row in rows:
            print(
                f"{row['key']:>8}  {row['errors']:>3}/{row['words']:<3} {row['dnsmos']:.2f}  "
                f"{row['failure'] or row['heard']}"
            )
    total = summarize(rows)
    others = [
        f"{total[key]:.1f} %" for key in recognisers(QUALITY) if key in total and key != "wer"
    ]
    second = f", 2nd recogniser {', '.join(others)}" if others else ""
    like = f"  similarity {total['similarity']:.3f}" if "similarity" in total else ""
    print(
        f"{title}: word errors {total['wer']:.1f} % (mean of clips {total['wer_mean']:.1f}"
        f" %{second})"
        f"  DNSMOS {total['dnsmos']:.2f}{like}  failures {total['failures']:.0f}"
        f"  clips {total['clips']:.0f}  audio {total['seconds']:.0f} s"
    )
    for one in agreements(title, rows, QUALITY):
        if one.share is not None:
            print(
                f"{title}: of {one.both + sum(one.only)} words that {' or '.join(one.metrics)}"
                f" missed, {one.both} ({100 * one.share:.0f} %) by both"
            )


def report_more(rows: Sequence[Row], prompts: Sequence[Prompt], panel: Panel) -> None:
    """Print the means of metrics beside the usual ones, and word errors by kind of sentence."""
    for key in panel.first.used:
        if key not in QUALITY:
            info = metric_class(key).info
            mean, count = weighted_mean(rows, key)
            value = f"{mean:.{info.digits}f} {info.unit}" if count else "no value"
            print(f"{info.title}: {value} (mean of {count} clips)")
    rows_by_key = {str(row["key"]): row for row in rows}
    for key in recognisers(QUALITY):
        means = rates(rows_by_key, prompts, key)
        if means:
            listed = ", ".join(f"{kind} {mean:.1f} %" for kind, mean in means.items())
            print(f"{metric_class(key).info.title} by kind of sentence, exploratory: {listed}")


def _speed(spoken: Sequence[Row]) -> str:
    """The whole set's real-time factor and the median time to first audio."""
    good = [row for row in spoken if "rtf" in row]
    if not good:
        return "speed: nothing was spoken"
    factor = sum(row["made"] for row in good) / sum(row["seconds"] for row in good)
    first = sorted(row["first_audio"] for row in good)[len(good) // 2]
    cut = sum(row.get("cut_words", 0) for row in good)
    return (
        f"real-time factor {factor:.3f}, first audio after {first:.0f} ms (median),"
        f" engine {good[0]['engine']}; words ended by the length rule: {cut}"
    )


def keep(path: Path | None, panel: Panel, data: dict[str, Any]) -> None:
    """Write the numbers and who judged them, where they are wanted."""
    write_json(path, {"signatures": panel.first.signatures, **data})


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Write one file of JSON; nothing without a path."""
    if path is not None:
        write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
