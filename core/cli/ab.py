"""``wishbone ab``: compare systems that differ in one part, and write a report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.cli.arguments import COMPUTING, argument, option, parse
from wishbone.core.cli.bulk.parts import PartOptions, do_in_parts
from wishbone.core.cli.bundled import listing
from wishbone.core.cli.evaluation import ab_runs
from wishbone.core.cli.evaluation.ab_runs import SUBCOMMANDS
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.part import Count, Size
from wishbone.core.scale.part_process import launched
from wishbone.core.scale.share import which_part

EXAMPLES = (
    "examples:",
    "  wishbone ab quickstart --quick",
    "  wishbone ab quickstart seeds=3 --out ab-three-seeds",
    "  wishbone ab mine.yaml --train && wishbone ab mine.yaml",
    "  wishbone ab mine.yaml --train --executor cluster.yaml      one training a task",
    "  wishbone ab mine.yaml --executor cluster.yaml            prompts in parts, and the report",
    "  wishbone ab quickstart --fail-if 'wer.high > 3'",
    "  wishbone ab --page ab-quickstart/ab.json",
    "  wishbone ab show ab-quickstart        (diff and replay, too: see 'wishbone ab show --help')",
)
TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class ABOptions(PartOptions):
    """Compare systems that differ in one part, and write a report with a verdict.

    Every arm speaks the same sentences; word errors, quality, likeness of the voice and speed are
    compared sentence by sentence. A comparison that was stopped goes on where it was.
    """

    name: str | None = argument(None, help="a comparison: a bundled one's name, or a YAML file")
    set: list[str] = argument(
        [], metavar="key=value", help="changes to that file, such as limit=10 or seeds=3"
    )
    out: Path | None = option(
        None,
        metavar="FOLDER",
        default_text="ab-NAME",
        help="where recordings and report are written",
    )
    prompts: Size | None = option(
        None,
        metavar="N",
        default_text="the file's 'limit'",
        help="speak only the first N sentences",
    )
    seeds: Size | None = option(
        None, metavar="N", default_text="the file's 'seeds'", help="speak each sentence N times"
    )
    voices: str = option(
        "", metavar="A,B,...", default_text="the file's 'voices', else one",
        help="let every one of these voices say every sentence: the result is then of voices, too",
    )  # fmt: skip
    quick: bool = option(
        False, help="a smoke test: a few sentences, to see that all works, without a verdict"
    )
    dry_run: bool = option(
        False, help="print the arms, resolved, and what differs between them; nothing is spoken"
    )
    allow: bool = option(
        False, help="go on although the arms differ in more than the file's 'vary' names"
    )
    fail_if: list[str] = option(
        [], metavar="LIMIT", repeat=True,
        help="exit with code 4 if a comparison with the baseline reaches this, such as"
        " 'wer.high > 0.5'; fields: difference, low, high, value, baseline, p; a change of speed is"
        " a share, 0.05 for 5 percent",
    )  # fmt: skip
    page: Path | None = option(
        None, metavar="JSON",
        help="only write a page of tables and plots, from the ab.json of a comparison",
    )  # fmt: skip
    recompute: bool = option(
        False, help="with --page: make the statistics again from the JSON's raw values first"
    )
    replay: Path | None = option(
        None, metavar="JSON",
        help="repeat the comparison of an ab.json in a new folder, and say what changed; the same"
        " as 'wishbone ab replay'",
    )  # fmt: skip
    train: bool = option(
        False, group=TRAINING, help="train the arms that the file describes, and stop then"
    )
    only: str = option(
        "", metavar="PATTERN", group=TRAINING, default_text="all of them",
        help="with --train: which arms to train, such as 'rwkv7-*'",
    )  # fmt: skip
    engine: str | None = option(
        None, metavar="NAME[:WEIGHTS]", group=COMPUTING, default_text="the file's, else auto",
        help="how decoding steps are computed, in every arm: auto is the fastest that this machine"
        " can have, eager is plain PyTorch; 'wishbone say --help' names them all",
    )  # fmt: skip
    threads: Count = option(
        2, metavar="N", group=COMPUTING, help="recordings that are judged side by side"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``wishbone ab``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in SUBCOMMANDS:
        return ab_runs.main(words, main)
    options = parse(ABOptions, words, "wishbone ab", _epilogue)
    if options.page and options.fail_if or options.recompute and not options.page:
        raise UsageError(
            "--fail-if needs a comparison to run, and --recompute a --page.",
            "wishbone ab",
            "See 'wishbone ab --help'.",
        )
    if options.only and not options.train:
        raise UsageError(
            "--only names trainings, and none is asked for.",
            "wishbone ab",
            "Add --train; which arms are compared stands in the A/B file.",
        )
    if options.voices and (bare := [word for word in options.set if "=" not in word]):
        raise UsageError(
            f"'{bare[0]}' is neither a change of the file nor one of --voices.",
            "wishbone ab",
            "Join voices by commas, such as --voices joe,kathleen; a change is key=value.",
        )
    if options.page:
        from wishbone.core.evaluate.report.markdown import write_page

        for path in write_page(options.page, options.out, options.recompute):
            print(path)
        return 0
    if options.replay:
        where = ["--out", str(options.out)] if options.out else []
        others = [word for word in words if word not in (*where, "--replay", str(options.replay))]
        if [word for word in others if not word.startswith(("--out=", "--replay="))]:
            raise UsageError(
                "--replay repeats a comparison as it was, and takes only --out beside it.",
                "wishbone ab",
                "Run the comparison by its name to change something, then 'wishbone ab diff'.",
            )
        return ab_runs.main(["replay", str(options.replay), *where], main)
    if not options.name:
        raise UsageError("No A/B is named.", "wishbone ab", "Try 'wishbone ab quickstart'.")
    return _compare(options, options.name, words)


def _compare(options: ABOptions, name: str, words: Sequence[str]) -> int:
    from wishbone.core.evaluate.ab import TRAININGS, prompt_step, run
    from wishbone.core.evaluate.experiment.plan import read_plan
    from wishbone.core.evaluate.experiment.sweep import training_step
    from wishbone.core.evaluate.gate import check_metrics, hold, read_limit
    from wishbone.core.evaluate.prompt_step import PromptStep

    limits = [read_limit(text) for text in options.fail_if]
    stem = Path(name).stem
    out = options.out or Path("ab" if stem == "ab" else f"ab-{stem}")
    plan = read_plan(
        name,
        options.set,
        prompts=options.prompts,
        seeds=options.seeds,
        quick=options.quick,
        trained=out / TRAININGS,
        engine=options.engine,
        voices=[name.strip() for name in options.voices.split(",") if name.strip()],
    )
    check_metrics(limits, [*plan.listening, *plan.metrics])
    if options.dry_run:
        from wishbone.core.evaluate.experiment.config_diff import described

        print(described(plan), end="")
        return 0
    if options.train:
        step = training_step(plan.trainings, options.only)
        return do_in_parts(options, ["ab", *words], lambda: step, _train_part)
    _, count = which_part(options.part, os.environ)
    if options.executor or count > 1:
        code = do_in_parts(
            options,
            ["ab", *words],
            lambda: prompt_step(plan, out, options.allow, options.threads),
            _speak_part,
        )
        left = PromptStep(plan, out).unfinished()
        # a part ends here, and who submitted jobs that are not done comes again
        if code or count > 1 or launched() or left:
            return code
    command = ["wishbone", "ab", *words]
    result = run(plan, out, allow=options.allow, threads=options.threads, command=command)
    hold(result, limits)
    return 0


def _speak_part(step: Any, part: int, parts: int) -> int:
    from wishbone.core.scale.step import do_part

    work = do_part(step, part, parts)
    left = step.unfinished()
    remaining = f"{left} prompts are left to other parts" if left else "all prompts are there"
    counts = f"{work.pieces} prompts, {work.items} recordings"
    print(f"part {part} of {parts}: {counts}; {remaining}", file=sys.stderr)
    return 0


def _train_part(step: Any, part: int, parts: int) -> int:
    from wishbone.core.scale.step import do_part

    do_part(step, part, parts)
    return 1 if step.unfinished(part - 1, parts) else 0


def _epilogue() -> str:
    return listing("bundled comparisons", "ab", ["", *EXAMPLES])
