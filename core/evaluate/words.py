"""A result in words and cells: the same for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Each = Mapping[str, Any]


def cell(value: float | None, metric: Each) -> str:
    """A value as tables show it."""
    return "-" if value is None else f"{value:.{metric['digits']}f}"


def change(each: Each, metric: Each) -> str:
    """The difference, or for a ratio its percent."""
    if each["ratio"]:
        return f"{100 * (each['difference'] - 1):+.1f} %"
    return f"{each['difference']:+.{metric['digits']}f}"


def interval(each: Each, metric: Each) -> str:
    """Both ends of the difference's interval."""
    if each["low"] is None or each["high"] is None:
        return "unknown"
    if each["ratio"]:
        return f"{100 * (each['low'] - 1):+.1f} to {100 * (each['high'] - 1):+.1f} %"
    return f"{each['low']:+.{metric['digits']}f} to {each['high']:+.{metric['digits']}f}"


def margin(metric: Each) -> str:
    """The margin of equivalence."""
    if metric["ratio"]:
        return f"{100 * metric['margin']:g} %"
    return f"{metric['margin']:g} {metric['unit'].replace('%', 'points')}"


def settle(each: Each) -> str:
    """ " (about N more prompts)" where that would settle it."""
    more = each["more_prompts"]
    if each["verdict"] != "inconclusive":
        return ""
    return " (no number of prompts can be given)" if more is None else f" (+{more} prompts)"


def closing(result: Each) -> list[str]:
    """The sentences under the table: what the result shows, then what it cannot show."""
    return [*warnings(result), *shows(result), *cannot(result)]


def warnings(result: Each) -> list[str]:
    """What must be said before any number is believed."""
    lines = []
    if result["quick"]:
        lines.append("SMOKE TEST: --quick gives no verdict; everything works, and that is all.")
    if result["confounded"]:
        keys = ", ".join(result["confounded"])
        lines.append(f"CONFOUNDED: the arms also differ in {keys}; this was allowed, not harmless.")
    if result["unmatched"]:
        lines.append(f"UNMATCHED: {result['unmatched']}")
    return lines


def shows(result: Each) -> list[str]:
    """One sentence for each comparison, with the direction in words."""
    if result["quick"]:
        return []
    failed = {name: sum(each["why"].values()) for name, each in result["failures"].items()}
    total = sum(failed.values())
    listed = ", ".join(f"{name} {count}" for name, count in failed.items())
    stopped = f"Failed sentences, counted as worst: {listed}." if total else "No sentence failed."
    return [stopped] + [_sentence(each, result) for each in result["comparisons"]]


def _sentence(each: Each, result: Each) -> str:
    metric = result["metrics"][each["metric"]]
    arm, baseline = each["arm"], each["baseline"]
    title = metric["title"].capitalize()
    amount = f"{change(each, metric)}{_points(each, metric)} (95 %: {interval(each, metric)})"
    if each["verdict"] == "equivalent":
        return f"{title}: {arm} and {baseline} are equivalent within {margin(metric)}; {amount}."
    if each["verdict"] in ("better", "worse"):
        return f"{title}: {arm} is {each['verdict']} than {baseline}; {amount}."
    more = each["more_prompts"]
    ask = f"; about {more} more prompts would settle it" if more else ""
    return f"{title}: no verdict between {arm} and {baseline}; {amount}{ask}."


def _points(each: Each, metric: Each) -> str:
    return "" if each["ratio"] else f" {metric['unit'].replace('%', 'points')}"


def cannot(result: Each) -> list[str]:
    """What no number in this result says."""
    lines = [
        "Each arm is one set of trained weights: this compares two trained models, not two "
        "architectures. A claim about architectures needs several training seeds for each.",
        "The prompts are one kind of text, read in one voice; nothing is said about others.",
        "No person listened: words are counted by a recogniser and quality is predicted.",
        "Times are of this machine, one request at a time, and of nothing else.",
    ]
    count = len(result["prompts"])
    if not result["quick"] and count < 50:
        lines.insert(0, f"{count} prompts find large differences only; small ones need more.")
    return lines
