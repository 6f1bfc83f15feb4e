"""A result in words and cells: the same for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wishbone.core.evaluate.statistics.metrics import HELD_OUT
from wishbone.core.evaluate.statistics.paired import student

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


def settle(each: Each, metric: Each) -> str:
    """ " (about N more prompts)" where that would settle it."""
    more = each["more_prompts"]
    if each["verdict"] != "inconclusive":
        return ""
    if more is None and (each.get("seed_share") or 0) >= 0.5:
        return " (needs more training seeds)"
    # results of Wishbone 0.1 do not say where a metric's values come from
    source = metric.get("source") or ("model" if each["metric"] in HELD_OUT else "audio")
    what = "utterances" if source == "model" else "prompts"
    return f" (no number of {what} can be given)" if more is None else f" (+{more} {what})"


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
    if result.get("engine_note"):
        lines.append(f"ENGINES: {result['engine_note']}")
    return lines


def shows(result: Each) -> list[str]:
    """One sentence for each comparison, with the direction in words."""
    if result["quick"]:
        return []
    failed = {name: sum(each["why"].values()) for name, each in result["failures"].items()}
    total = sum(failed.values())
    listed = ", ".join(f"{name} {count}" for name, count in failed.items())
    stopped = f"Failed sentences, counted as worst: {listed}." if total else "No sentence failed."
    if result.get("factors"):
        return [stopped, *_effects(result)]
    return [stopped] + [_sentence(each, result) for each in result["comparisons"]]


def _effects(result: Each) -> list[str]:
    """Main effects and interactions of the primary metrics that came to a verdict."""
    asked = [
        each
        for each in result["effects"]
        if each["kind"] != "simple" and result["metrics"][each["metric"]]["primary"]
    ]
    settled = [each for each in asked if each["verdict"] != "inconclusive"]
    lines = []
    for each in settled:
        metric = result["metrics"][each["metric"]]
        amount = f"{change(each, metric)}{_points(each, metric)} (95 %: {interval(each, metric)})"
        title = f"{metric['title'].capitalize()}, {effect_title(each)}"
        lines.append(f"{title}: {each['verdict']}; {amount}.")
    open_ = len(asked) - len(settled)
    kinds = "main effects and interactions of the primary metrics"
    return [*lines, f"{open_} of {len(asked)} {kinds} are inconclusive."]


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
        *_trainings(result),
        "The prompts are one kind of text, read in one voice; nothing is said about others.",
        "No person listened: words are counted by a recogniser and quality is predicted.",
        f"Times are of this machine, one request at a time, {_engines(result)}, and of nothing"
        " else.",
    ]
    count = len(result["prompts"])
    if not result["quick"] and count < 50:
        lines.insert(0, f"{count} prompts find large differences only; small ones need more.")
    return lines


def _engines(result: Each) -> str:
    """On which engine times were measured; results from before engines were chosen are eager."""
    used = result.get("engines") or {arm["key"]: "eager" for arm in result["arms"]}
    if len(set(used.values())) == 1:
        return f"every arm on the engine '{next(iter(used.values()))}'"
    return f"arms on different engines ({', '.join(f'{k}: {name}' for k, name in used.items())})"


def _trainings(result: Each) -> list[str]:
    """What the number of trainings, and other layouts, keep a result from saying."""
    count = max(len(arm.get("checkpoints") or [arm["key"]]) for arm in result["arms"])
    if count < 2:
        return [
            "Each arm is one set of trained weights: this compares two trained models, not two "
            "architectures. A claim about architectures needs several training seeds for each."
        ]
    freedom = 2 * (count - 1)
    lines = [
        f"Each arm was trained {count} times, and intervals take these seeds as a sample of all "
        f"seeds. How far seeds differ is itself known from few: where it is all that counts, two "
        f"arms leave {freedom} degrees of freedom, and an interval reaches "
        f"{student(0.975, freedom):.1f} standard errors to each side instead of 2.0.",
    ]
    layouts = [arm["config"].get("layout") for arm in result["arms"]]
    if "loss" in result["metrics"] and any(layout != layouts[0] for layout in layouts):
        lines.append(
            "Losses are means over the same codes in every layout, but a model knows different "
            "things at them: a paced layout shows which part of the text is being spoken, at the "
            "pace of the recording, unistream shows all of the text. The loss with marks charges "
            "for what the marks of pacing tell; neither loss says how a model speaks on its own."
        )
    return lines


def effect_title(effect: Each) -> str:
    """What an effect is of, in a table's first cell."""
    pairs = [(factor, *levels) for factor, levels in effect["changed"].items()]
    if effect["kind"] == "interaction":
        (_, low, high), (_, low_b, high_b) = pairs
        return f"({high} - {low}) with {high_b}, minus with {low_b}"
    ((factor, low, high),) = pairs
    held = ", ".join(effect["within"].values())
    return f"{high} - {low}" + (f", {held}" if held else f" ({factor})")
