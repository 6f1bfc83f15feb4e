"""A result's tables: the same in the terminal, in the HTML report and on a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wishbone.core.evaluate.experiment import budget
from wishbone.core.evaluate.report import wording
from wishbone.core.evaluate.result import Comparison, Effect, Memory, MetricFacts, Result
from wishbone.core.report.table import Table

LENGTHS = (0.0, 10.0, 80.0)
"""Seconds of audio behind a step at which the table of lengths shows it; plots show all."""
TRAININGS = "Each training on its own, in the order of seeds"
LENGTH = "Speed and memory against length"


def comparison(result: Result, arm: str) -> Table:
    """Tabulate every metric of one arm against the baseline."""
    baseline = result.arms[0].key
    rows, verdicts = [], []
    for row in result.analysis.comparisons:
        if row.arm != arm:
            continue
        metric, outcome = result.metrics[row.metric], row.outcome
        reference = result.reference.get(row.metric)
        shown = wording.cell(reference.value if reference else None, metric)
        rows.append(
            [
                f"{metric.title} ({metric.unit})",
                *([shown] if result.reference else []),
                wording.cell(row.value_baseline, metric),
                wording.cell(row.value, metric),
                wording.change(outcome, metric),
                wording.interval(outcome, metric),
                wording.margin(metric),
                wording.chance(outcome, row.p_holm),
                wording.verdict(outcome, metric),
            ]
        )
        verdicts.append(outcome.verdict)
    head = ["", *(["reference"] if result.reference else []), baseline, arm]
    head += ["change", "interval", "margin", "p", "verdict"]
    return Table(f"{arm} compared with {baseline}", head, rows, ("verdict",), verdicts)


def cells(result: Result) -> Table:
    """Tabulate every metric in every cell: a column for each level of the first factor.

    Rows are the levels of the others. With two levels of the first factor its effect in each row
    stands beside them.
    """
    columns, *others = result.factors
    levels = result.factors[columns]
    rows, verdicts = [], []
    for key, metric in result.metrics.items():
        for within in levels_of(result, others):
            values = [_cell(result, {columns: level, **within}, key, metric) for level in levels]
            row = [f"{metric.title} ({metric.unit})", ", ".join(within.values()), *values]
            effect = _find(result, key, "simple" if others else "main", within)
            if len(levels) == 2:
                row += _effect_cells(effect, metric) if effect else ["-"] * 4
            rows.append(row)
            verdicts.append(effect.outcome.verdict if effect and len(levels) == 2 else "")
    head = ["", " and ".join(others), *levels]
    if len(levels) == 2:
        head += [f"{levels[1]} - {levels[0]}", "interval", "p", "verdict"]
    title = f"{' and '.join([*others, columns])}, each with its 95 % interval"
    return Table(title, head, rows, (head[1], "verdict"), verdicts)


def effects(result: Result, kinds: Sequence[str] = ("main", "interaction")) -> Table:
    """Tabulate main effects and interactions of every metric."""
    rows, verdicts = [], []
    for key, metric in result.metrics.items():
        for effect in result.analysis.effects:
            if effect.metric == key and effect.kind in kinds:
                title = f"{metric.title} ({metric.unit})"
                rows.append([title, wording.effect_title(effect), *_effect_cells(effect, metric)])
                verdicts.append(effect.outcome.verdict)
    head = ["", "effect", "change", "interval", "p", "verdict"]
    title = " and ".join(f"{kind} effects" for kind in kinds).capitalize()
    return Table(title, head, rows, ("effect", "verdict"), verdicts)


def every_arm(result: Result) -> Table:
    """Tabulate every metric with all arms side by side, and each one's verdict."""
    baseline, *others = [arm.key for arm in result.arms]
    outcomes = {(row.metric, row.arm): row for row in result.analysis.comparisons}
    rows = []
    for key, metric in result.metrics.items():
        against = [outcomes[key, arm] for arm in others if (key, arm) in outcomes]
        if not against:
            continue
        reference = result.reference.get(key)
        shown = wording.cell(reference.value if reference else None, metric)
        rows.append(
            [
                f"{metric.title} ({metric.unit})",
                *([shown] if result.reference else []),
                wording.cell(against[0].value_baseline, metric),
                *(_beside(outcomes.get((key, arm)), metric) for arm in others),
            ]
        )
    head = ["", *(["reference"] if result.reference else []), f"{baseline} (baseline)", *others]
    return Table(f"All arms, and what each is against {baseline}", head, rows)


def _beside(row: Comparison | None, metric: MetricFacts) -> str:
    """Return an arm's value and its verdict."""
    return f"{wording.cell(row.value, metric)}, {row.outcome.verdict}" if row else "-"


def trainings(result: Result) -> Table:
    """Tabulate each training's own figures."""
    rows = [
        [arm.key, *(_by_training(result, arm.key, key) for key in result.metrics)]
        for arm in result.arms
    ]
    titles = [f"{metric.title} ({metric.unit})" for metric in result.metrics.values()]
    return Table(TRAININGS, ["", *titles], rows)


def lengths(result: Result) -> Table:
    """Tabulate a step's time and the state's size at some lengths, and a process's peak memory."""
    rows = []
    for arm in result.arms:
        costs = {cost.seconds: cost for cost in result.costs.length.get(arm.key, [])}
        steps = [f"{costs[s].step_ms:.2f}" if s in costs else "-" for s in LENGTHS]
        states = [budget.size(costs[s].state_bytes) if s in costs else "-" for s in LENGTHS]
        peak = result.costs.memory.get(arm.key, Memory()).peak
        rows.append([arm.key, *steps, *states, budget.size(peak) if peak else "-"])
    head = ["", *(f"step after {s:g} s (ms)" for s in LENGTHS)]
    head += [*(f"state after {s:g} s" for s in LENGTHS), "peak of a process"]
    return Table(LENGTH, head, rows)


def memory(result: Result) -> Table:
    """Tabulate what the memory of a process of each arm is made of."""
    names = [arm.key for arm in result.arms if arm.key in result.costs.memory]
    parts = [_memory_cells(result.costs.memory.get(name, Memory())) for name in names]
    titles = ("libraries", "+ the loaded system", "+ speaking the longest sentence", "peak")
    rows = [[title, *sizes] for title, sizes in zip(titles, zip(*parts, strict=True), strict=True)]
    return Table("", ["memory of one process", *names], rows)


def sizes(result: Result) -> Table:
    """Tabulate each arm's size, work and training."""
    names = [arm.key for arm in result.arms if arm.key in result.costs.budget]
    rows = budget.rows([result.costs.budget[name] for name in names]) if names else []
    several = len(result.arms[0].checkpoints) > 1
    title = "Budget, of the first training" if several else "Budget"
    return Table(title, ["", *names], [[title, *row] for title, row in rows])


def failures(result: Result, with_tests: bool = False) -> Table:
    """Tabulate each arm's failed items and their reasons, with p against the baseline if asked."""
    rows = []
    for arm in result.arms:
        failed = result.analysis.failures[arm.key]
        why = ", ".join(f"{reason} ({n})" for reason, n in failed.why.items()) or "-"
        percent = f"{100 * failed.low:.1f} to {100 * failed.high:.1f} %"
        p = result.analysis.failure_tests.get(arm.key)
        tests = ["-" if p is None else f"{p:.3f}"] if with_tests else []
        rows.append([arm.key, f"{failed.count} of {failed.items}", percent, why, *tests])
    head = ["", "failed", "95 % interval", "why"]
    tests = [f"p against {result.arms[0].key}"] if with_tests else []
    return Table("Failed items", [*head, *tests], rows, ("why",))


def slices(result: Result) -> Table:
    """Tabulate word errors and the other primary metrics by kind of sentence; no verdicts."""
    rows = []
    for one in result.slices or []:
        metric = result.metrics[one.metric]
        if not metric.primary:
            continue
        ends = f"{one.low:+.{metric.digits}f} to {one.high:+.{metric.digits}f}"
        values = [wording.cell(value, metric) for value in (one.value_baseline, one.value)]
        change = f"{one.difference:+.{metric.digits}f}"
        title = f"{metric.title} ({metric.unit})"
        rows.append([one.kind, str(one.prompts), title, one.arm, *values, change, ends])
    head = ["kind", "sentences", "", "arm", result.arms[0].key, "arm's", "change", "95 % interval"]
    kinds = "kind and voice" if any(prompt.voice for prompt in result.prompts) else "kind"
    return Table(f"By {kinds} of sentence: exploratory, without verdicts", head, rows, ("", "arm"))


def parity(result: Result) -> Table:
    """Tabulate how many code frames arms of one system have in common, from the same seeds."""
    rows = []
    for one in result.parity or []:
        none = one.first is None
        rows.append(
            [
                one.arm,
                f"{one.alike} of {one.items}",
                f"{100 * one.share:.2f} %",
                f"{100 * one.before / one.frames:.2f} %" if one.frames else "-",
                "never" if none else f"frame {one.first}",
                "-" if none else f"frame {one.middle:g}",
            ]
        )
    title = f"Codes drawn from the same seeds as {result.arms[0].key}"
    head = ["", "items alike", "codes alike", "before the first that differs", "earliest", "median"]
    return Table(title, head, rows)


def differences(result: Result) -> Table:
    """Tabulate the keys of the configuration that are not the same in all arms."""
    names = [arm.key for arm in result.arms]
    rows, verdicts = [], []
    for difference in result.differences:
        values = [difference.values.get(name) for name in names]
        shown = ["-" if value is None else str(value) for value in values]
        why = "budget" if difference.budget else "not meant to differ"
        rows.append([difference.key, *shown, "varied" if difference.meant else why])
        verdicts.append("" if difference.meant or difference.budget else "worse")
    return Table("", ["key", *names, ""], rows, (*names, ""), verdicts)


def margins(result: Result) -> str:
    """List the differences that count as none."""
    listed = (f"{metric.title} {wording.margin(metric)}" for metric in result.metrics.values())
    return f"Margins of equivalence{beforehand(result)}: {', '.join(listed)}."


def beforehand(result: Result) -> str:
    """Say that margins were chosen before the result was seen, where that was written down."""
    commitment = result.commitment
    changed = commitment is None or commitment.changed or not commitment.before_data
    return "" if changed else ", chosen beforehand"


def words(result: Result) -> Table:
    """Tabulate the word errors of each arm by kind, and what the cap of each item takes off."""
    rows = []
    for arm, counts in (result.analysis.words or {}).items():
        kinds = (counts.substitutions, counts.deletions, counts.insertions)
        rows.append(
            [
                arm,
                str(counts.words),
                *("-" if number is None else str(number) for number in kinds),
                f"{counts.rate:.1f} %",
                "-" if counts.rate_raw is None else f"{counts.rate_raw:.1f} %",
                f"{counts.full} of {counts.items}",
            ]
        )
    head = ["", "words", "changed", "missed", "added", "capped", "not capped", "all words wrong"]
    return Table("Word errors, counted", head, rows)


def arm_at(result: Result, levels: Mapping[str, str]) -> str:
    """Return the arm in one cell."""
    return next(arm.key for arm in result.arms if arm.levels == dict(levels))


def levels_of(result: Result, factors: Sequence[str]) -> list[dict[str, str]]:
    """Return every combination of the levels of some factors."""
    rows: list[dict[str, str]] = [{}]
    for factor in factors:
        rows = [{**row, factor: level} for row in rows for level in result.factors[factor]]
    return rows


def _cell(result: Result, levels: Mapping[str, str], key: str, metric: MetricFacts) -> str:
    estimate = result.analysis.values[arm_at(result, levels)].get(key)
    if not estimate:
        return "-"
    value = wording.cell(estimate.value, metric)
    if estimate.low is None:
        return value
    low, high = (wording.cell(end, metric) for end in (estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _find(result: Result, key: str, kind: str, within: Mapping[str, str]) -> Effect | None:
    first = next(iter(result.factors))
    for effect in result.analysis.effects:
        same = effect.metric == key and effect.kind == kind
        if same and first in effect.changed and effect.within == dict(within):
            return effect
    return None


def _effect_cells(effect: Effect, metric: MetricFacts) -> list[str]:
    outcome = effect.outcome
    size, ends = wording.change(outcome, metric), wording.interval(outcome, metric)
    p = wording.chance(outcome, effect.p_holm)
    return [size, ends, p, wording.verdict(outcome, metric)]


def _by_training(result: Result, arm: str, key: str) -> str:
    values = result.analysis.checkpoints[arm].get(key) or []
    return " / ".join(wording.cell(value, result.metrics[key]) for value in values) or "-"


def _memory_cells(part: Memory) -> list[str]:
    if part.imported is None or part.loaded is None or part.peak is None:
        return ["not measured"] * 4
    system, speaking = part.loaded - part.imported, part.peak - part.loaded
    return [budget.size(max(0, size)) for size in (part.imported, system, speaking, part.peak)]
