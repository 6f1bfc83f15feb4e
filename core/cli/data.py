"""``wishbone data``: sentences to audio, audio to tokens, and looking at both."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wishbone.core.cli.arguments import Parser
from wishbone.core.cli.main import run_command, subcommands
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import UsageError

EPILOGUE = """Every subcommand goes on where it was stopped; several may write other parts of one
folder at once. 'wishbone data report FOLDER' says what was kept, what was dropped, and why."""


def main(argv: list[str]) -> int:
    """Run one subcommand; those of plug-ins are commands with a key such as ``data.align``."""
    added = subcommands("data")
    if argv and argv[0] in added:
        return run_command(added[argv[0]], argv[1:])
    options = _parser().parse_args(argv)
    return options.run(options)


def _parser() -> Parser:
    parser = Parser("wishbone data", description="Make and look at corpora.", epilog=EPILOGUE)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_speak(commands)
    _add_tokenize(commands)
    _add_text(commands)
    joining = commands.add_parser("join", help="several utterances of token data as one")
    joining.add_argument("source", help="folder of token data")
    joining.add_argument("--out", required=True, help="folder for the pairs")
    joining.add_argument("--pairs", type=int, default=40, help="how many from each file")
    joining.add_argument(
        "--utterances", type=int, default=2, metavar="N",
        help="in each of them; more than 2 are of one speaker",
    )  # fmt: skip
    joining.add_argument("--in-order", action="store_true", help="as they stand in the file")
    joining.add_argument("--seed", type=int, default=0)
    joining.add_argument(
        "--prompt", action="store_true", help="the first of a pair is heard, the second is said"
    )
    joining.set_defaults(run=_join)
    looking = commands.add_parser("inspect", help="figures of token data or audio data")
    looking.add_argument("folder")
    looking.set_defaults(run=_inspect)
    report = commands.add_parser("report", help="what was kept and dropped while it was made")
    report.add_argument("folder", help="folder that another subcommand wrote")
    report.add_argument(
        "--out", type=Path, help="file for all of it as JSON, with each dropped utterance"
    )
    report.set_defaults(run=_report)
    for name, entry in subcommands("data").items():
        # listed by --help; main hands its words on before they are parsed here
        commands.add_parser(name, help=entry.summary, add_help=False)
    return parser


def _add_speak(commands: argparse._SubParsersAction) -> None:
    speak = commands.add_parser("speak", help="a teacher speaks sentences: text to audio data")
    speak.add_argument("sentences", help="text file, one sentence a line")
    speak.add_argument("--out", required=True, help="folder for the audio data")
    speak.add_argument("--teacher", default="piper", help="name of a registered teacher")
    speak.add_argument("--tokenizer", default="phonemes", help="front end that makes the words")
    speak.add_argument("--start", type=int, default=0, help="first line, counted from 0")
    speak.add_argument("--count", type=int, default=0, help="lines to speak; 0 means all")
    speak.add_argument("--shard", type=int, default=250, help="lines of one file")
    speak.add_argument("--workers", type=int, default=1, help="processes")
    speak.add_argument("--speaker", default="", help="name of the voice, kept in every row")
    speak.add_argument("overrides", nargs="*", metavar="key=value", help="fields of the teacher")
    _add_set(speak, "the same, e.g. --set noise=0.5; may be repeated")
    speak.set_defaults(run=_speak)


def _add_tokenize(commands: argparse._SubParsersAction) -> None:
    tokens = commands.add_parser("tokenize", help="audio to token data")
    tokens.add_argument(
        "sources", nargs="+", help="audio data (files or folders), folders with metadata.tsv"
    )
    tokens.add_argument("--out", required=True, help="folder for the token data")
    tokens.add_argument("--system", default="quickstart", help="whose tokenizer and codec")
    _add_set(tokens, "changes to the system; may be repeated")
    tokens.add_argument("--speaker", default="", help="name where the source gives none")
    tokens.add_argument("--exclude", type=Path, help="file of sentences to leave out, one a line")
    tokens.add_argument(
        "--mark", default="", help="in front of every text, such as '<|dialect:us|>'"
    )
    tokens.add_argument("--workers", type=int, default=1, help="processes")
    tokens.set_defaults(run=_tokenize)


def _add_text(commands: argparse._SubParsersAction) -> None:
    text = commands.add_parser("text", help="sentences to token data for a model of text")
    text.add_argument("sentences", help="text file, one sentence a line")
    text.add_argument("--out", required=True, help="folder for the token data")
    text.add_argument("--system", default="text-rwkv7", help="whose tokenizer")
    _add_set(text, "changes to the system; may be repeated")
    text.add_argument("--start", type=int, default=0, help="first line, counted from 0")
    text.add_argument("--count", type=int, default=0, help="lines to take; 0 means all")
    text.add_argument(
        "--exclude", nargs="+", default=[], help="files of sentences or token data to leave out"
    )
    text.set_defaults(run=_text)


def _add_set(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help=about)


def _speak(options: argparse.Namespace) -> int:
    from wishbone.core.data.speak import speak

    speak(
        options.sentences,
        options.out,
        teacher=options.teacher,
        tokenizer=options.tokenizer,
        overrides=[*options.set, *options.overrides],
        start=options.start,
        count=options.count,
        shard=options.shard,
        workers=options.workers,
        speaker=options.speaker,
    )
    return 0


def _tokenize(options: argparse.Namespace) -> int:
    from wishbone.core.data.tokenize import tokenize

    # what follows --set a=b may be another change; a file of such a name is still a source
    more = [word for word in options.sources if "=" in word and not Path(word).exists()]
    sources = [word for word in options.sources if word not in more]
    if not sources:
        raise UsageError(
            "There is nothing to tokenize.", "wishbone data tokenize", "Name audio data."
        )
    tokenize(
        sources,
        options.out,
        options.system,
        [*options.set, *more],
        speaker=options.speaker,
        exclude=options.exclude,
        workers=options.workers,
        mark=options.mark,
    )
    return 0


def _text(options: argparse.Namespace) -> int:
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


def _join(options: argparse.Namespace) -> int:
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


def _inspect(options: argparse.Namespace) -> int:
    from wishbone.core.data.inspect import inspect

    for name, value in inspect(options.folder).items():
        print(f"{name:<34}{value}")
    return 0


def _report(options: argparse.Namespace) -> int:
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
