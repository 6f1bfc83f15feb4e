"""What a result claims and by which rules: the first sentence, the plan, the size of the study."""

from __future__ import annotations

from wishbone.core.evaluate.report import wording
from wishbone.core.evaluate.result import Comparison, Result
from wishbone.core.evaluate.statistics.verdict import LOST

SATURATED = 0.2
"""Share of items without a right word from which differences of word errors are flattened."""
NAMED = 4
"""Arms that the first sentence describes one by one; of more it counts verdicts."""
SETTLED = ("better", "worse", "equivalent", "present", "none beyond margin")


def headline(result: Result) -> str:
    """Write the one sentence that may be quoted."""
    names = [arm.key for arm in result.arms]
    if result.quick:
        return f"A smoke test of {wording.listed(names)}, which says nothing about them."
    if result.analysis.not_understood:
        return f"No arm is understood{_least_wrong(result)}: nothing about quality follows."
    size = f"On {_sentences(result)}"
    size += f", {result.seeds} times each," if result.seeds > 1 else ""
    if result.factors:
        return f"{size} {_effects(result)}."
    if len(names) > NAMED:
        return f"{size} {len(names) - 1} arms against {names[0]}: {_counted(result)}."
    parts = [
        f"{arm} against {names[0]}: {listed}"
        for arm in names[1:]
        if (listed := _claims(result, arm))
    ]
    return f"{size} {'; '.join(parts)}." if parts else f"{size} no verdict was asked for."


def _sentences(result: Result) -> str:
    """Count the sentences, and the voices where several say each."""
    voices = {prompt.voice for prompt in result.prompts if prompt.voice}
    number = len(result.prompts) // max(1, len(voices))
    spoken = wording.count(number, "sentence")
    return f"{spoken} in {wording.count(len(voices), 'voice')}" if voices else spoken


def _least_wrong(result: Result) -> str:
    values = [own.get("wer") for own in result.analysis.values.values()]
    least = min(value.value for value in values if value)
    return f" (at least {least:.0f} % of words are wrong)"


def _claims(result: Result, arm: str) -> str:
    """Gather the verdicts on the primary metrics of one arm."""
    groups: dict[str, list[str]] = {}
    for row in result.analysis.comparisons:
        metric, verdict = result.metrics[row.metric], row.outcome.verdict
        if row.arm == arm and metric.primary:
            unit = "" if row.outcome.ratio else f" {metric.unit.replace('%', 'points')}"
            size = f"{wording.change(row.outcome, metric)}{unit}"
            cell = f"{metric.title} ({size}; {wording.interval(row.outcome, metric)})"
            groups.setdefault(verdict if verdict != "none" else "without a verdict", []).append(
                cell
            )
    return ", ".join(f"{verdict} in {wording.listed(cells)}" for verdict, cells in groups.items())


def _counted(result: Result) -> str:
    """Count the verdicts on each primary metric, and name the arms of those that are settled."""
    lines = []
    for key, metric in result.metrics.items():
        groups: dict[str, list[str]] = {}
        for row in result.analysis.comparisons:
            if row.metric == key and metric.primary:
                verdict = row.outcome.verdict
                verdict = verdict if verdict != "none" else "without a verdict"
                groups.setdefault(verdict, []).append(row.arm)
        cells = [
            f"{len(arms)} {verdict}" + (f" ({', '.join(arms)})" if verdict in SETTLED else "")
            for verdict, arms in groups.items()
        ]
        lines += [f"{metric.title}: {wording.listed(cells)}"] if cells else []
    return "; ".join(lines) or "no verdict was asked for"


def _effects(result: Result) -> str:
    claims = [
        effect
        for effect in result.analysis.effects
        if effect.kind != "simple" and result.metrics[effect.metric].primary
    ]
    settled = [effect for effect in claims if effect.outcome.verdict in SETTLED]
    return f"{len(settled)} of {len(claims)} effects on the primary metrics came to a verdict"


def warnings(result: Result) -> list[str]:
    """Write what a reader must know of the plan, the words and the times, most important first."""
    lines = []
    if result.analysis.not_understood:
        lines.append(f"NOT UNDERSTOOD: {headline(result)}")
    lines += [f"CHANGED AFTER THE DATA: {change}." for change in _changes(result)]
    lines += _unplanned(result)
    words = result.analysis.words or {}
    full = {arm: (count.full, count.items) for arm, count in words.items()}
    total = sum(items for _, items in full.values())
    flat = sum(number for number, _ in full.values())
    if total and flat >= SATURATED * total:
        listed = ", ".join(f"{arm} {number}" for arm, (number, _) in full.items())
        lines.append(
            f"SATURATED: {flat} of {total} recordings have every word wrong ({listed}); differences"
            " of word errors between such arms are flattened."
        )
    timing = result.timing
    if timing and timing.busy:
        lines.append(f"BUSY: {timing.busy}; no verdict on speed.")
    if timing and timing.unmeasured:
        lines.append(
            f"NOT MEASURED: {timing.unmeasured} items ran out of processor time and are left out in"
            " every arm; run the command again to try them again."
        )
    return lines + _seen(result)


def _seen(result: Result) -> list[str]:
    """Write which prompts the arms were trained on."""
    lines = []
    for part in result.seen_prompts or []:
        if part.seen or part.partly:
            keys = wording.listed([*part.seen, *part.partly][:NAMED])
            more = len(part.seen) + len(part.partly) - NAMED
            lines.append(
                f"SEEN IN TRAINING: of {len(result.prompts)} prompts, texts of the training of"
                f" {wording.listed(part.arms)} have {len(part.seen)} whole and {len(part.partly)}"
                f" by eight words in a row or more ({keys}{f' and {more} more' * (more > 0)})."
            )
    return lines


def unseen(result: Result) -> list[str]:
    """Write which texts of training have none of the prompts, and which are not known."""
    lines: list[str] = []
    missing: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for part in result.seen_prompts or []:
        arms = wording.listed(part.arms)
        if part.texts is None:
            of = missing if part.data else unknown
            of[arms] = of.get(arms, 0) + 1
        elif not part.seen and not part.partly:
            few = f" ({len(part.short)} of fewer than four words apart)" if part.short else ""
            lines.append(
                f"None of the prompts is among the {part.texts} texts that {arms} learned"
                f" from{few}."
            )
    doubt = "whether they have these prompts is not known"
    lines += [
        f"Texts of {wording.count(number, 'training')} of {arms} are not at hand: {doubt}."
        for arms, number in missing.items()
    ]
    return lines + [f"What {arms} learned from is not on record: {doubt}." for arms in unknown]


def _changes(result: Result) -> list[str]:
    commitment = result.commitment
    if commitment is None:
        return []
    early = [] if commitment.before_data else ["the plan was written when items were there"]
    return [*early, *commitment.changed]


def _unplanned(result: Result) -> list[str]:
    commitment = result.commitment
    if commitment is None or commitment.look:
        return []
    planned = wording.listed([str(look) for look in commitment.protocol.looks])
    return [
        f"UNPLANNED LOOK: the plan has looks at {planned} prompts of"
        f" {wording.count(commitment.protocol.seeds, 'seed')}, this is one at"
        f" {commitment.prompts} of {result.seeds}; going on until there is a verdict finds one by"
        " chance, so none is given. Plan 'looks' in a new folder."
    ]


def rules(result: Result) -> list[str]:
    """Write the rules that the verdicts follow: the plan, the correction, the price of looks."""
    lines = unseen(result)
    commitment = result.commitment
    if commitment is not None:
        lines.append(
            f"Plan {commitment.digest[:12]}, written {commitment.written}: verdicts on"
            f" {wording.listed(_titles(result, commitment.protocol.primary))}, looks at"
            f" {wording.listed([str(look) for look in commitment.protocol.looks])} prompts of"
            f" {wording.count(commitment.protocol.seeds, 'seed')}."
        )
        absent = [key for key in commitment.protocol.primary if not _is_measured(result, key)]
        if absent:
            lines.append(
                f"Planned and not measured here: {wording.listed(_titles(result, absent))}."
            )
        looks = len(commitment.protocol.looks)
        if commitment.look and looks > 1:
            lines.append(
                f"Look {commitment.look} of {looks}: its price is {commitment.alpha:.4f} of the"
                f" {commitment.protocol.alpha:g} that all looks may use (spent as in O'Brien and"
                " Fleming's design)."
            )
    confidences = _confidences(result)
    if confidences:
        lines.append(
            "The primary metrics are judged together: p is corrected by Holm's method, and their"
            f" intervals are of {' or '.join(confidences)}, so that all are right at once. A"
            " difference must also outlast one more lost sentence in either arm (of many, one in"
            f" {LOST}), and equivalence one. All other metrics are exploratory: 95 % each,"
            " uncorrected, without a verdict."
        )
    return lines


def _confidences(result: Result) -> list[str]:
    """Confidence of single intervals, one for each family of claims that tables show."""
    if not result.factors:
        claims = [row.outcome for row in result.analysis.comparisons if row.outcome.confidence]
        return [f"{100 * claims[0].confidence:.2f} % each"] if claims else []
    names = {"main": "(main effects and interactions)", "simple": "(within one level)"}
    levels: dict[str, float] = {}
    for effect in result.analysis.effects:
        if effect.kind in names and effect.outcome.confidence:
            levels.setdefault(names[effect.kind], effect.outcome.confidence)
    return [f"{100 * level:.2f} % each {name}" for name, level in levels.items()]


def _is_measured(result: Result, key: str) -> bool:
    values = result.analysis.values.values()
    return any(own.get(key) is not None for own in values)


def _titles(result: Result, keys: list[str]) -> list[str]:
    return [result.metrics[key].title if key in result.metrics else key for key in keys]


def advice(result: Result) -> list[str]:
    """Write what more prompts or more repeats would show, for what is inconclusive."""
    open_ = [
        row
        for row in result.analysis.comparisons
        if row.sizes and row.outcome.verdict == "inconclusive"
    ]
    lines = [_curve(row, result) for row in open_]
    if open_:
        assumed = any(size.assumed for row in open_ for size in row.sizes or ())
        lines.append(
            "Repeats (seeds=N) usually buy more than prompts, which run out: differences of word"
            " errors varied 1.8 points between sentences and 11.8 between repeats of one."
            + (" Sizes with several repeats assume this; a run with seeds=3 knows." * assumed)
        )
    return lines


def _curve(row: Comparison, result: Result) -> str:
    metric = result.metrics[row.metric]
    sizes = [
        f"{size.prompts} x {size.seeds}: {_amount(size.detectable, row, result)}"
        for size in row.sizes or ()
    ]
    return (
        f"{metric.title.capitalize()}, {row.arm} against {row.baseline}: differences that are found"
        f" in four cases of five, by prompts x repeats: {', '.join(sizes)}."
    )


def _amount(number: float, row: Comparison, result: Result) -> str:
    metric = result.metrics[row.metric]
    if row.outcome.ratio:
        return f"{100 * number:.1f} %"
    return f"{number:.{metric.digits}f}"
