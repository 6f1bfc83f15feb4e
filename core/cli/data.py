"""``wishbone data``: sentences to audio, audio to tokens, and looking at both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wishbone.core.cli.arguments import argument, option, parse_subcommand
from wishbone.core.cli.bulk.parts import WorkerOptions, do_in_parts
from wishbone.core.cli.main import run_command
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.part import Count, Seed, Size
from wishbone.core.registry.loader import registry

if TYPE_CHECKING:
    from wishbone.core.scale.step import Step

EXAMPLES = """examples, from sentences to what a training reads:
  wishbone data speak sentences.txt --out data/audio --workers 2
  wishbone data tokenize data/audio --out data/tokens
  wishbone data inspect data/tokens
  wishbone train quickstart-rwkv7 data=data/tokens

and from recordings of people, in folders with a metadata.tsv:
  wishbone data align recordings --like data/audio --out data/aligned
  wishbone data tokenize data/aligned --out data/tokens --speaker anna

and more:
  wishbone data text sentences.txt --out data/text --count 100000
  wishbone data join data/tokens --out data/pairs --prompt
  wishbone data report data/tokens --out dropped.json

on many processors and machines (core/scale/README.md):
  wishbone data speak sentences.txt --out data/audio --executor local:8
  wishbone data tokenize data/audio --out data/tokens --executor cluster.yaml
  wishbone data gather data/tokens

Every subcommand goes on where it was stopped; several may write other parts of one folder at once.
'wishbone data report FOLDER' shows how much was used, how much was dropped, and why."""
PART = "which part of the file"
ALIGN = "align"
"""A command of its own, which a plug-in brings; shown among the subcommands too."""


@dataclass(frozen=True, kw_only=True)
class SpeakOptions(WorkerOptions):
    """Let a teacher speak sentences: text to audio data."""

    sentences: str = argument(help="a text file, one sentence a line")
    overrides: list[str] = argument(
        [], metavar="key=value", help="changes to the teacher's configuration, such as noise=0.5"
    )
    out: str = option(metavar="FOLDER", help="folder that the audio data is written to")
    teacher: str = option("piper", metavar="NAME", help="the teacher, a part of kind teacher")
    tokenizer: str = option(
        "phonemes", metavar="NAME", help="the text front end that makes the words of the data"
    )
    speaker: str = option(
        "", metavar="NAME", help="name of the voice, which is written into every row"
    )
    set: list[str] = option(
        [], metavar="key=value", repeat=True,
        help="a change to the teacher's configuration; may be given several times",
    )  # fmt: skip
    shard: Size = option(250, metavar="N", help="sentences in each file of the data")
    start: Count = option(0, metavar="N", group=PART, help="first line to speak, counted from 0")
    count: Count = option(0, metavar="N", group=PART, help="lines to speak; 0 means all of them")


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions(WorkerOptions):
    """Turn audio into codes: audio data or recordings to token data, which training reads."""

    sources: list[str] = argument(
        metavar="SOURCE",
        help="audio data (files or folders), or folders of recordings with a metadata.tsv",
    )
    out: str = option(metavar="FOLDER", help="folder that the token data is written to")
    system: str = option(
        "quickstart", metavar="NAME", help="the system whose text tokenizer and codec are used"
    )
    set: list[str] = option(
        [], metavar="key=value", repeat=True,
        help="a change to the system's configuration; may be given several times",
    )  # fmt: skip
    speaker: str = option("", metavar="NAME", help="name of the voice where the source gives none")
    exclude: Path | None = option(
        None, metavar="FILE", help="text file of sentences to leave out, one a line"
    )
    mark: str = option(
        "", metavar="MARK", help="put this in front of every text, such as '<|dialect:us|>'"
    )


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Turn sentences into token data for a language model of text."""

    sentences: str = argument(help="a text file, one sentence a line")
    out: str = option(metavar="FOLDER", help="folder that the token data is written to")
    system: str = option(
        "text-rwkv7", metavar="NAME", help="the text system whose tokenizer is used"
    )
    set: list[str] = option(
        [], metavar="key=value", repeat=True,
        help="a change to the system's configuration; may be given several times",
    )  # fmt: skip
    exclude: list[str] = option(
        [], metavar="PATH", help="text files or token data with sentences to leave out"
    )
    start: Count = option(0, metavar="N", group=PART, help="first line to take, counted from 0")
    count: Count = option(0, metavar="N", group=PART, help="lines to take; 0 means all of them")


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """Join several utterances of token data into one, for longer speech or with a prompt."""

    source: str = argument(help="folder of token data")
    out: str = option(metavar="FOLDER", help="folder that the joined token data is written to")
    pairs: Size = option(40, metavar="N", help="how many to make from each file")
    utterances: Size = option(
        2, metavar="N", help="utterances in each of them; more than 2 are of one speaker"
    )
    in_order: bool = option(False, help="take utterances as they follow in the file, not by chance")
    seed: Seed = option(0, metavar="N", help="start of the random numbers")
    prompt: bool = option(
        False, help="the first of a pair is a prompt that is heard, only the second is learned"
    )


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Print figures of token data or audio data: hours, texts, lengths and the like."""

    folder: str = argument(help="folder of token data or audio data")


@dataclass(frozen=True, kw_only=True)
class GatherOptions:
    """Check that all parts of a folder are there, once and alike; write its report and its index.

    The index lets a training of any size start at once: of it, rows are read when they are needed.
    """

    folder: str = argument(help="folder that another subcommand, or 'wishbone synth', wrote")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Print how much was used and dropped while data was made, and why."""

    folder: str = argument(help="folder that another subcommand wrote")
    out: Path | None = option(
        None, metavar="FILE", help="write all of it as JSON, with each dropped utterance"
    )


SUBCOMMANDS = {
    "speak": SpeakOptions,
    "tokenize": TokenizeOptions,
    "text": TextOptions,
    "join": JoinOptions,
    "inspect": InspectOptions,
    "gather": GatherOptions,
    "report": ReportOptions,
}


def main(argv: Sequence[str]) -> int:
    """Run one subcommand; returns the exit code."""
    if argv[:1] == [ALIGN]:
        return run_command(ALIGN, argv[1:])
    summaries = {e.key: e.summary for e in registry().of("command") if e.key == ALIGN}
    description = "Make the data that a training reads, and look at it."
    options = parse_subcommand(argv, "wishbone data", description, SUBCOMMANDS, EXAMPLES, summaries)
    if make_step := STEPS.get(type(options)):
        return do_in_parts(options, ["data", *argv], lambda: make_step(options), _do_part)
    return RUN[type(options)](options)


def _speak(options: SpeakOptions) -> Step:
    from wishbone.core.data.speak import speak_step

    return speak_step(
        options.sentences,
        options.out,
        options.teacher,
        options.tokenizer,
        [*options.set, *options.overrides],
        start=options.start,
        count=options.count,
        shard=options.shard,
        speaker=options.speaker,
    )


def _tokenize(options: TokenizeOptions) -> Step:
    from wishbone.core.data.tokenize import tokenize_step

    # what follows --set a=b may be another change; a file of such a name is still a source
    more = [word for word in options.sources if "=" in word and not Path(word).exists()]
    sources = [word for word in options.sources if word not in more]
    if not sources:
        raise UsageError(
            "There is nothing to tokenize.", "wishbone data tokenize", "Name audio data."
        )
    return tokenize_step(
        sources,
        options.out,
        options.system,
        [*options.set, *more],
        speaker=options.speaker,
        exclude=options.exclude,
        mark=options.mark,
    )


def _do_part(step: Any, part: int, parts: int) -> int:
    from wishbone.core.data.shards import run_step

    run_step(step, part, parts)
    return 0


def _text(options: TextOptions) -> int:
    from wishbone.core.data.text import write

    report = write(
        options.sentences,
        options.out,
        options.system,
        options.set,
        exclude=options.exclude,
        start=options.start,
        count=options.count,
    )
    print(f"{options.out}: {report.total()['kept']} sentences, {report.total()['dropped']}")
    return 0


def _join(options: JoinOptions) -> int:
    from wishbone.core.data.join import join

    join(
        options.source,
        options.out,
        options.pairs,
        options.seed,
        options.prompt,
        options.utterances,
        options.in_order,
    )
    return 0


def _inspect(options: InspectOptions) -> int:
    from wishbone.core.data.inspect import inspect

    for name, value in inspect(options.folder).items():
        print(f"{name:<34}{value}")
    return 0


def _gather(options: GatherOptions) -> int:
    from wishbone.core.data.bulk.gather import gather

    for name, value in gather(options.folder).items():
        print(f"{name:<46}{value}")
    return 0


def _report(options: ReportOptions) -> int:
    from wishbone.core.data.shards import gathered

    report = gathered(options.folder)
    total = report.total()
    lines = {**report.settings, "shards": len(report.shards)}
    lines |= {name: total[name] for name in ("kept", "hours")}
    lines |= {f"dropped: {reason}": count for reason, count in total["dropped"].items()}
    for name, value in lines.items():
        print(f"{name:<34}{value}")
    if options.out is not None:
        write_text(options.out, json.dumps(report.as_data(), indent=1, ensure_ascii=False) + "\n")
    return 0


STEPS: dict[type, Callable[[Any], Step]] = {SpeakOptions: _speak, TokenizeOptions: _tokenize}
"""Subcommands that many processes share, and the step that each makes."""
RUN: dict[type, Callable[[Any], int]] = {
    TextOptions: _text,
    JoinOptions: _join,
    InspectOptions: _inspect,
    GatherOptions: _gather,
    ReportOptions: _report,
}
