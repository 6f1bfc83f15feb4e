"""``wishbone listen``: let people hear systems and decide, from recordings to a verdict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from wishbone.core.cli.arguments import argument, option, parse_subcommand
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.part import Count, NonNegative, Range, Seed, Size

EXAMPLES = """examples, from an A/B's recordings to a verdict:
  wishbone listen make runs/quickstart --design ab --out listen
  wishbone listen serve listen
  wishbone listen analyze listen

and more:
  wishbone listen make mine=wavs/mine theirs=wavs/theirs --design cmos --out listen
  wishbone listen make runs/q reference=wavs/person --design mushra --reference reference --out m
  wishbone listen analyze answers/*.json --key listen-key.json --out verdict
  wishbone listen analyze paired_comparison.csv --rater email
  wishbone listen plan --design ab --effect 0.6 --items 20 --simulate 200

The folder of a test also works from a disk or any web server; listeners then download their
answers and send them."""
WHERE = "wishbone listen"
DESIGNS = ("ab", "cmos", "abx", "mos", "mushra")
RATHER = "how listeners answer"
"""Heading of assumptions in the help."""
Loudness = Annotated[float, Range(-70, 0)]
"""Loudness of clips, in LUFS."""
Port = Annotated[int, Range(0, 65_535)]
"""Number of a port of this machine."""


@dataclass(frozen=True, kw_only=True)
class MakeOptions:
    """Write the folder of a listening test, and its key outside of it.

    Clips have names that tell nothing and one loudness; orders and sides are balanced over the
    listeners; a few trials have a spoilt clip, to see who listens.
    """

    sources: list[str] = argument(
        metavar="SOURCE",
        help="the folder of a 'wishbone ab' run, or folders of recordings in which one sentence"
        " has one file name; NAME=FOLDER names a folder's system",
    )
    design: str = option(
        "ab", choices=DESIGNS,
        help="ab: which is better; cmos: by how much; abx: can they be told apart; mos: rate one"
        " clip; mushra: rate all side by side",
    )  # fmt: skip
    out: Path = option(metavar="FOLDER", help="folder for listeners, which must not exist")
    key: Path | None = option(
        None, metavar="FILE", default_text="FOLDER-key.json",
        help="file that says which clip is whose; never inside FOLDER",
    )  # fmt: skip
    systems: list[str] = option([], metavar="NAME", help="compare only these, in this order")
    items: Count = option(0, metavar="N", default_text="all", help="sentences, drawn by chance")
    trials: Count = option(
        0, metavar="N", default_text="all, at most 40", help="trials of one listener"
    )
    listeners: Size = option(24, metavar="N", help="listeners that are balanced with each other")
    catch: Count = option(2, metavar="N", help="catch trials of one listener")
    training: Count = option(2, metavar="N", help="practice trials before, which do not count")
    no_ties: bool = option(False, help="design ab: 'no difference' is no answer")
    reference: str = option(
        "", metavar="NAME", help="design mushra: the system that is given as the reference"
    )
    anchors: list[int] = option(
        [3500, 7000], metavar="HZ", default_text="3500 7000",
        help="design mushra with a reference: anchors, the reference cut at these frequencies",
    )  # fmt: skip
    question: str = option("", metavar="TEXT", default_text="the design's", help="what is asked")
    title: str = option("Listening test", metavar="TEXT", help="heading of the first page")
    consent: Path | None = option(None, metavar="FILE", help="text file of what listeners agree to")
    show_text: bool = option(False, help="write the sentence over its clips")
    lufs: Loudness = option(-23.0, metavar="N", help="loudness of every clip (ITU-R BS.1770)")
    seed: Seed = option(0, metavar="N", help="start of the random numbers of orders")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Hand out a test on this machine, and store the answers, one file a listener."""

    folder: Path = argument(help="the folder that 'make' wrote")
    results: Path | None = option(
        None, metavar="FOLDER", default_text="FOLDER-answers", help="where answers are written"
    )
    host: str = option("127.0.0.1", metavar="ADDRESS", help="an address of this machine alone")
    port: Port = option(8017, metavar="N", help="port; 0 takes any")


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions:
    """Turn answers into a verdict with intervals over listeners and sentences."""

    answers: list[str] = argument(
        metavar="PATH",
        help="the test's folder after 'serve', or files and folders of answers: those of the page,"
        " or tables of webMUSHRA",
    )
    key: Path | None = option(
        None, metavar="FILE", default_text="FOLDER-key.json", help="the test's key"
    )
    out: Path | None = option(
        None, metavar="FOLDER", default_text="FOLDER-verdict", help="where JSON and page go"
    )
    rater: str = option(
        "", metavar="COLUMN", help="column that names the listener, in another program's table"
    )
    base: str = option("", metavar="NAME", help="the system that others are compared with first")
    margin: NonNegative | None = option(
        None, metavar="N",
        help="difference within which systems count as equal, such as 0.05 of the votes; without"
        " one no two are called equivalent",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Say how many listeners a test needs to find a difference four times in five."""

    design: str = option("ab", choices=DESIGNS, help="the design of the test")
    effect: float = option(
        metavar="N",
        help="the smallest difference that matters: the share that prefers the better system, such"
        " as 0.6, that recognises X, or steps of the scale",
    )
    items: Size = option(20, metavar="N", help="sentences")
    trials: Count = option(
        0, metavar="N", default_text="all, at most 40", help="trials of one listener"
    )
    ties: float = option(
        0.0, metavar="SHARE", help="of design ab: share of the answers that have no preference"
    )
    rater: float = option(
        0.05, metavar="SHARE", group=RATHER,
        help="share of an answer's variance that is the listener's own",
    )  # fmt: skip
    item: float = option(
        0.05, metavar="SHARE", group=RATHER, help="share of it that is the sentence's"
    )
    simulate: Count = option(
        0, metavar="RUNS", help="check the answer with so many simulated tests, analysed as real"
    )


SUBCOMMANDS = {
    "make": MakeOptions,
    "serve": ServeOptions,
    "analyze": AnalyzeOptions,
    "plan": PlanOptions,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``wishbone listen``; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = parse_subcommand(
        words, WHERE, "Let people hear systems and decide.", SUBCOMMANDS, EXAMPLES
    )
    commands: dict[type, Callable[[Any], None]] = {
        MakeOptions: _make,
        ServeOptions: _serve,
        AnalyzeOptions: _analyze,
        PlanOptions: _plan,
    }
    commands[type(options)](options)
    return 0


def _make(options: MakeOptions) -> None:
    from wishbone.core.evaluate.listening.handout import (
        CONSENT,
        Wishes,
        default_key,
        write_test,
    )
    from wishbone.core.evaluate.listening.stimuli import find_stimuli

    for name, lowest in (("items", 0), ("trials", 0), ("listeners", 1), ("catch", 0),
                         ("training", 0)):  # fmt: skip
        if getattr(options, name) < lowest:
            raise UsageError(f"--{name} is {getattr(options, name)}.", WHERE, f"{lowest} or more.")
    stimuli = find_stimuli(options.sources, options.systems)
    wishes = Wishes(
        design=options.design, listeners=options.listeners, items=options.items,
        trials=options.trials, catch=options.catch, training=options.training,
        ties=not options.no_ties, reference=options.reference, anchors=tuple(options.anchors),
        question=options.question, title=options.title, show_text=options.show_text,
        consent=_text(options.consent) if options.consent else CONSENT,
        target=options.lufs, seed=options.seed,
    )  # fmt: skip
    written = write_test(stimuli, wishes, options.out, options.key or default_key(options.out))
    print(f"{written.folder}: for listeners; {written.trials} trials, about"
          f" {written.minutes:.0f} minutes for each of them")  # fmt: skip
    print(f"{written.key}: the key; keep it from listeners, 'analyze' needs it")
    if stimuli.missing:
        some = ", ".join([*stimuli.missing[:5], *(["..."] if len(stimuli.missing) > 5 else [])])
        print(f"left out, {len(stimuli.missing)} without a good recording of every system: {some}")
    if written.matched.target < wishes.target:
        print(f"loudness is {written.matched.target:.1f} LUFS, because louder clips would clip")
    if written.matched.softer:
        print(f"{len(written.matched.softer)} clips with high peaks are softer than the others")
    print(f"next: wishbone listen serve {written.folder}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The text cannot be read: {error}", str(path), "Check the path."
        ) from error


def _serve(options: ServeOptions) -> None:
    from wishbone.core.evaluate.listening.collector import Collector, check_host

    check_host(options.host)
    results = options.results or _beside(options.folder, "answers")
    with Collector(options.folder, results, options.host, options.port) as server:
        print(f"{server.address} hands out the test; each visit is a new listener")
        print(f"{results}: {len(server.sessions())} sessions so far. Ctrl-C ends.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"{len(server.sessions())} sessions; next: wishbone listen analyze"
                  f" {options.folder}")  # fmt: skip


def _analyze(options: AnalyzeOptions) -> None:
    from wishbone.core.evaluate.listening.answers import read_answers
    from wishbone.core.evaluate.listening.estimates import analyze
    from wishbone.core.evaluate.listening.verdict_page import lines, tables, write_result
    from wishbone.core.report.table import show

    paths, key, out = [Path(path) for path in options.answers], options.key, options.out
    if len(paths) == 1 and (paths[0] / "index.html").is_file():
        key = key or _beside(paths[0], "key").with_suffix(".json")
        out = out or _beside(paths[0], "verdict")
        paths = [_beside(paths[0], "answers")]
    answers = read_answers(paths, key, options.rater)
    if options.base:
        if options.base not in answers.systems:
            raise UsageError(
                f"There is no system '{options.base}'.", WHERE, f"Use {', '.join(answers.systems)}."
            )
        answers.systems.sort(key=lambda name: name != options.base)
    result = analyze(answers, options.margin)
    for table in tables(result):
        show(table)
    print("\n".join(lines(result)))
    for path in write_result(result, out or Path("listening-verdict")):
        print(path)


def _beside(folder: Path, what: str) -> Path:
    """Return the path beside a test's folder that belongs to it."""
    return folder.resolve().with_name(f"{folder.resolve().name}-{what}")


def _plan(options: PlanOptions) -> None:
    from wishbone.core.evaluate.listening import listener_count as count
    from wishbone.core.report.table import Table, show

    trials = options.trials or count.default_trials(options.design, options.items)
    try:
        assumed = count.Assumed(
            options.design, options.effect, options.items, trials, options.rater, options.item
        )
        if options.ties:
            forced, assumed = assumed, count.with_ties(assumed, options.ties)
            print(
                f"With {100 * options.ties:g} % of the answers without a preference, split between"
                f" both, {forced.effect:g} of those who must choose become {assumed.effect:.3f}."
            )
        if assumed.distance == 0:
            raise ValueError("The effect is no difference at all, which no test can find.")
    except ValueError as error:
        raise UsageError(str(error), WHERE, "See 'wishbone listen plan --help'.") from error
    sentences = sorted({max(2, options.items // 2), options.items, 2 * options.items,
                        4 * options.items})  # fmt: skip
    rows = [
        [str(items), str(number), str(needed or f"more than {count.MOST}: too few sentences"),
         f"{100 * power:.0f} %"]
        for items, number, needed, power in count.plan_rows(assumed, sentences, options.trials)
    ]  # fmt: skip
    show(Table(
        f"{options.design}, true value {round(assumed.effect, 3):g}: to find it four times in five",
        ["sentences", "trials each", "listeners", "chance with 20 listeners"], rows,
    ))  # fmt: skip
    needed = count.listeners_needed(assumed)
    print(
        f"Assumed: {100 * options.rater:.0f} % of the variance of an answer is the listener's,"
        f" {100 * options.item:.0f} % the sentence's. 20 listeners or more are usual."
    )
    if options.simulate and needed:
        checked = count.check(assumed, needed, options.simulate)
        alike = count.check(count.without_difference(assumed), needed, options.simulate)
        print(
            f"{options.simulate} simulated tests of {needed} listeners: the difference was seen in"
            f" {100 * checked.power:.1f} %, and the interval held the true value in"
            f" {100 * checked.coverage:.1f} %; where there is none,"
            f" {100 * (alike.power + alike.wrong):.1f} % saw one, and the interval held it in"
            f" {100 * alike.coverage:.1f} %."
        )
