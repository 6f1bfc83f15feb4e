"""A result in words and cells: the same for the terminal, the report and a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from math import expm1

from wishbone.core.evaluate.result import Comparison, Effect, MetricFacts, Outcome, Result
from wishbone.core.evaluate.sources.outside import KEY
from wishbone.core.evaluate.statistics.metrics import HELD_OUT
from wishbone.core.evaluate.statistics.paired import student


def cell(value: float | None, metric: MetricFacts) -> str:
    """Write a value as tables show it."""
    return "-" if value is None else f"{value:.{metric.digits}f}"


def change(outcome: Outcome, metric: MetricFacts) -> str:
    """Write the difference, or for a ratio its percent."""
    if outcome.ratio:
        return f"{100 * (outcome.difference - 1):+.1f} %"
    return f"{outcome.difference:+.{metric.digits}f}"


def interval(outcome: Outcome, metric: MetricFacts) -> str:
    """Write both ends of the difference's interval: the one that its verdict goes by."""
    low, high = outcome.low, outcome.high
    if outcome.low_together is not None and outcome.high_together is not None:
        low, high = outcome.low_together, outcome.high_together
    if low is None or high is None:
        return "unknown"
    if outcome.ratio:
        return f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %"
    return f"{low:+.{metric.digits}f} to {high:+.{metric.digits}f}"


def chance(outcome: Outcome, p_holm: float | None) -> str:
    """Write p: corrected, where the verdict goes by that."""
    corrected = outcome.confidence is not None and p_holm is not None
    return f"{p_holm if corrected else outcome.p:.3f}"


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def count(number: int, noun: str) -> str:
    """Write a number of things."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def margin(metric: MetricFacts) -> str:
    """Write the margin of equivalence."""
    if metric.margin is None:
        return "none"
    if metric.ratio:
        return f"{100 * metric.margin:g} %"
    return f"{metric.margin:g} {metric.unit.replace('%', 'points')}"


def verdict(outcome: Outcome, metric: MetricFacts) -> str:
    """Write the verdict, and why there is none or what an older result says would settle it."""
    more = outcome.more_prompts
    if outcome.withheld:
        return f"{outcome.verdict} ({outcome.withheld})"
    if outcome.verdict != "inconclusive":
        return outcome.verdict
    if more is None and (outcome.seed_share or 0) >= 0.5:
        return f"{outcome.verdict} (needs more training seeds)"
    if more is None and outcome.confidence is not None:
        return outcome.verdict
    # results of Wishbone 0.1 do not say where a metric's values come from
    source = metric.source or ("model" if metric.key in HELD_OUT else "audio")
    units = "utterances" if source == "model" else "prompts"
    number = f"no number of {units} can be given" if more is None else f"+{more} {units}"
    return f"{outcome.verdict} ({number})"


def effect_title(effect: Effect) -> str:
    """Name the levels that an effect is the difference of."""
    pairs = [(factor, *levels) for factor, levels in effect.changed.items()]
    if effect.kind == "interaction":
        (_, low, high), (_, low_b, high_b) = pairs
        return f"({high} - {low}) with {high_b}, minus with {low_b}"
    ((factor, low, high),) = pairs
    levels = ", ".join(effect.within.values())
    return f"{high} - {low}" + (f", {levels}" if levels else f" ({factor})")


def closing(result: Result) -> list[str]:
    """Write the sentences under the table: what the result shows, then what it cannot show."""
    return [*warnings(result), *shows(result), *cannot(result)]


def warnings(result: Result) -> list[str]:
    """Write what a reader must know before believing any number."""
    lines = [f"BUDGET: {result.unequal_training}"] if result.unequal_training else []
    if result.quick:
        lines.append("SMOKE TEST: --quick gives no verdict; everything works, and that is all.")
    if result.confounded:
        keys = ", ".join(result.confounded)
        lines.append(f"CONFOUNDED: the arms also differ in {keys}; this was allowed, not harmless.")
    outside = [arm.key for arm in result.arms if KEY in arm.config]
    if outside:
        lines.append(
            f"OUTSIDE: nothing is known of how {listed(outside)} came about, so that whatever"
            " differs between the arms is compared together."
        )
    if result.costs.unmatched:
        lines.append(f"UNMATCHED: {result.costs.unmatched}")
    if result.costs.engine_note:
        lines.append(f"ENGINES: {result.costs.engine_note}")
    return lines


def shows(result: Result) -> list[str]:
    """Write one sentence for each comparison, with the direction in words."""
    if result.quick:
        return []
    counts = {name: failures.count for name, failures in result.analysis.failures.items()}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    failed = f"Failed sentences, counted as worst: {listed}."
    first = failed if sum(counts.values()) else "No sentence failed."
    if result.factors:
        return [first, *_effects(result), *agreement(result)]
    rows = result.analysis.comparisons
    planned = [row for row in rows if row.outcome.verdict != "exploratory"]
    explored = [
        f"{_title(row, result)} {_amount(row.outcome, result.metrics[row.metric])}"
        for row in rows
        if row not in planned
    ]
    lines = [first, *agreement(result), *(_sentence(row, result) for row in planned)]
    return (
        [*lines, f"Exploratory, without a verdict: {'; '.join(explored)}."] if explored else lines
    )


def _title(row: Comparison, result: Result) -> str:
    """Name the metric of a comparison, and the arm where there are several."""
    title = result.metrics[row.metric].title
    return title if len(result.arms) == 2 else f"{title} of {row.arm}"


def agreement(result: Result) -> list[str]:
    """Write for every two recognisers how many of the words that either missed both did."""
    lines = []
    every = result.agreement or []
    for pair in dict.fromkeys(one.metrics for one in every):
        shares = [
            f"{one.arm} {one.both} of {one.both + sum(one.only)} ({100 * one.share:.0f} %)"
            for one in every
            if one.metrics == pair and one.share is not None
        ]
        if shares:
            lines.append(
                f"Recognisers {' and '.join(pair)}: of the words that either missed, both did in "
                f"{', '.join(shares)}; the others are rather a recogniser's than the speech's."
            )
    return lines


def _effects(result: Result) -> list[str]:
    """List main effects and interactions of the primary metrics that came to a verdict."""
    effects = [
        effect
        for effect in result.analysis.effects
        if effect.kind != "simple" and result.metrics[effect.metric].primary
    ]
    unsettled = ("inconclusive", "none")
    settled = [effect for effect in effects if effect.outcome.verdict not in unsettled]
    lines = []
    for effect in settled:
        metric = result.metrics[effect.metric]
        title = f"{_capitalized(metric)}, {effect_title(effect)}"
        lines.append(f"{title}: {effect.outcome.verdict}; {_amount(effect.outcome, metric)}.")
    open_ = len(effects) - len(settled)
    kinds = "main effects and interactions of the primary metrics"
    return [*lines, f"{open_} of {len(effects)} {kinds} are inconclusive or without a verdict."]


def _sentence(comparison: Comparison, result: Result) -> str:
    metric, outcome = result.metrics[comparison.metric], comparison.outcome
    arm, baseline = comparison.arm, comparison.baseline
    title, amount = _capitalized(metric), _amount(outcome, metric)
    if outcome.verdict == "equivalent":
        return f"{title}: {arm} and {baseline} are equivalent within {margin(metric)}; {amount}."
    if outcome.verdict in ("better", "worse"):
        return f"{title}: {arm} is {outcome.verdict} than {baseline}; {amount}."
    if outcome.verdict == "different":
        return f"{title}: {arm} differs from {baseline}; {amount}."
    more, why = outcome.more_prompts, outcome.withheld
    hint = f"; about {more} more prompts would settle it" if more else ""
    if not comparison.sizes and not why and outcome.detectable is not None:
        # where a curve of sizes is given, it says this, too
        hint += f"; one of {_reach(outcome, metric)} would be found in four cases of five"
    because = f" ({why})" if why else ""
    return f"{title}: no verdict between {arm} and {baseline}{because}; {amount}{hint}."


def _reach(outcome: Outcome, metric: MetricFacts) -> str:
    """Write the smallest difference that this many prompts show; of a ratio its logarithm came."""
    reach = outcome.detectable or 0.0
    if outcome.ratio:
        return f"{100 * expm1(reach):.1f} %"
    return f"{reach:.{metric.digits}f} {metric.unit.replace('%', 'points')}"


def _amount(outcome: Outcome, metric: MetricFacts) -> str:
    unit = "" if outcome.ratio else f" {metric.unit.replace('%', 'points')}"
    confidence = f"{100 * (outcome.confidence or 0.95):.3g}"
    return f"{change(outcome, metric)}{unit} ({confidence} %: {interval(outcome, metric)})"


def _capitalized(metric: MetricFacts) -> str:
    return metric.title.capitalize()


def cannot(result: Result) -> list[str]:
    """Write what no number in this result says."""
    lines = [
        *_trainings(result),
        f"The prompts are one kind of text, {_voices(result)}.",
        "No person listened: words are counted by a recogniser and quality is predicted.",
        f"Times are of this machine, one request at a time, {_engines(result)}, and of nothing"
        " else.",
    ]
    count = len(result.prompts)
    if not result.quick and count < 50:
        lines.insert(0, f"{count} prompts find large differences only; small ones need more.")
    return lines


def _voices(result: Result) -> str:
    voices = dict.fromkeys(prompt.voice for prompt in result.prompts if prompt.voice)
    if not voices:
        return "read in one voice; nothing is said about others"
    return (
        f"read in the voices {listed(list(voices))}; intervals take them as a sample of all voices"
        f" like these, of which {len(voices)} tell little"
    )


def _engines(result: Result) -> str:
    """Name the engines that times are of; results from before engines were chosen are eager."""
    engines = result.costs.engines or {arm.key: "eager" for arm in result.arms}
    if len(set(engines.values())) == 1:
        return f"every arm on the engine '{next(iter(engines.values()))}'"
    return f"arms on different engines ({', '.join(f'{k}: {name}' for k, name in engines.items())})"


def _trainings(result: Result) -> list[str]:
    """Write what the number of trainings, and other layouts, keep a result from saying."""
    count = max(len(arm.checkpoints) for arm in result.arms)
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
    layouts = [arm.config.get("layout") for arm in result.arms]
    if "loss" in result.metrics and any(layout != layouts[0] for layout in layouts):
        lines.append(
            "Losses are means over the same codes in every layout, but a model knows different "
            "things at them: a paced layout shows which part of the text is being spoken, at the "
            "pace of the recording, unistream shows all of the text. The loss with marks charges "
            "for what the marks of pacing tell; neither loss says how a model speaks on its own."
        )
    return lines
