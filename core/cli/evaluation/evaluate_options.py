"""The options of each subcommand of ``wishbone evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wishbone.core.cli.arguments import EngineOptions, argument, option
from wishbone.core.cli.bulk.parts import SHARING, PartOptions
from wishbone.core.contract.part import Count, Finite, Positive, Size

LIMITS = "limits: beyond them the exit code is 4"
REPORT = "how much, and what is reported"


@dataclass(frozen=True, kw_only=True)
class JudgingOptions:
    """Options of everything that judges recordings."""

    limit: Count | None = option(
        None, metavar="N", group=REPORT, default_text="all of them",
        help="use only the first N sentences, recordings or utterances",
    )  # fmt: skip
    threads: Count = option(
        2, metavar="N", group=REPORT, help="recordings that are judged side by side"
    )
    json: Path | None = option(
        None, metavar="FILE", group=REPORT, help="write the figures of every recording to this file"
    )


@dataclass(frozen=True, kw_only=True)
class ItemOptions(JudgingOptions):
    """Options of what prints a line for every recording."""

    items: bool = option(False, group=REPORT, help="print a line for every recording")


@dataclass(frozen=True, kw_only=True)
class PanelOptions(ItemOptions):
    """Options of what a panel of metrics judges."""

    metrics: list[str] = option(
        [], metavar="KEY", group=REPORT, help="metrics beside the usual ones: cer pace pitch ..."
    )


@dataclass(frozen=True, kw_only=True)
class BesideOptions(PanelOptions):
    """Options of what is judged beside a reference."""

    text: Path | None = option(
        None,
        metavar="FILE",
        default_text="the bundled prompts",
        help="the text, one sentence a line",
    )
    reference: Path | None = option(
        None, metavar="FOLDER", default_text="the bundled teacher's, for the bundled prompts",
        help="recordings of the same sentences to compare with, or 'none'",
    )  # fmt: skip
    errors_above: Finite | None = option(
        None, metavar="POINTS", group=LIMITS,
        help="most word errors beyond the reference's, in percentage points",
    )  # fmt: skip
    quality_least: Finite | None = option(
        None, metavar="SCORE", group=LIMITS, help="least mean DNSMOS, which goes from 1 to 5"
    )
    failures_most: Count | None = option(
        None, metavar="N", group=LIMITS, help="most recordings that are empty, silent or run on"
    )


@dataclass(frozen=True, kw_only=True)
class AudioOptions(PanelOptions, PartOptions):
    """Judge a folder of recordings against lines of text, by one process or in parts."""

    folder: Path = argument(metavar="FOLDER", help="recordings, in the order of the lines")
    text: Path = option(metavar="FILE", help="the text, one sentence a line")
    voice: Path | None = option(
        None, metavar="FILE", help="a recording of the voice that they should sound like"
    )
    out: Path | None = option(
        None, metavar="FOLDER", group=SHARING,
        help="where parts keep the rows of their recordings; the last command prints all",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SpeechOptions(BesideOptions, EngineOptions):
    """Judge the speech of a system, or a folder of it, beside a reference."""

    system: str = argument(help="a system's name or file, or a folder of recordings")
    overrides: list[str] = argument(
        [], metavar="key=value", help="changes to the system's configuration"
    )
    voice: str | None = option(
        None,
        metavar="NAME",
        default_text="the system's own",
        help="the voice that the system speaks with",
    )
    out: Path | None = option(None, metavar="FOLDER", help="keep the recordings in this folder")


@dataclass(frozen=True, kw_only=True)
class CodecOptions(BesideOptions):
    """Judge recordings that went through a codec, beside the originals."""

    system: str = argument(help="a system's name or file; only its codec is used")
    out: Path | None = option(None, metavar="FOLDER", help="keep the copies in this folder")
    peers: bool = option(
        False, help="put the same recordings through other codecs too, and print a table"
    )


@dataclass(frozen=True, kw_only=True)
class VoicesOptions(JudgingOptions, EngineOptions):
    """Tell whether each voice sounds most like its own recordings, among all voices."""

    system: str = argument(
        help="a system's name or file, or a folder with a folder of recordings for every voice"
    )
    voices: list[str] = argument(
        metavar="VOICE=RECORDINGS", help="a voice, and a recording, folder or audio data of it"
    )
    text: Path | None = option(
        None,
        metavar="FILE",
        default_text="the bundled prompts",
        help="the text, one sentence a line",
    )
    references: Size = option(20, metavar="N", help="recordings of each voice to compare with")
    out: Path | None = option(None, metavar="FOLDER", help="keep what was spoken in this folder")
    right_least: Finite | None = option(
        None, metavar="SHARE", group=LIMITS,
        help="least share of utterances nearer to their own voice, for each pair of voices",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DriftOptions(JudgingOptions, EngineOptions):
    """Judge a long text: its last minute of speech against its first."""

    system: str = argument(help="a system's name or file, or one recording")
    text: Path | None = option(
        None,
        metavar="FILE",
        default_text="the bundled prompts in a row",
        help="the text that is read",
    )
    voice: str | None = option(
        None,
        metavar="NAME",
        default_text="the system's own",
        help="the voice that the system speaks with",
    )
    minutes: Positive = option(5.0, metavar="MINUTES", help="about how long the speech shall be")
    seconds: Positive = option(
        60.0, metavar="SECONDS", help="length of the two ends that are compared"
    )
    out: Path | None = option(None, metavar="FILE", help="keep the recording in this .flac file")
    drift_most: Finite | None = option(
        None, metavar="POINTS", group=LIMITS,
        help="most word errors at the end beyond those of the beginning, in percentage points",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EndingsOptions(ItemOptions, EngineOptions):
    """Count utterances that are empty, silent or never end, over many draws, without a judge."""

    system: str = argument(help="a system's name or file")
    text: Path | None = option(
        None,
        metavar="FILE",
        default_text="the bundled prompts",
        help="the text, one sentence a line",
    )
    seeds: Size = option(5, metavar="N", help="how often each sentence is spoken")
    slots: Size = option(8, metavar="N", help="how many are spoken at once")
    voice: str | None = option(
        None,
        metavar="NAME",
        default_text="the system's own",
        help="the voice that the system speaks with",
    )
    failures_most: Count | None = option(
        None, metavar="N", group=LIMITS, help="most utterances that fail"
    )


@dataclass(frozen=True, kw_only=True)
class ShortOptions(JudgingOptions, EngineOptions):
    """Say single words in every voice, count what is lost, and what recognisers hear right."""

    system: str = argument(help="a system's name or file")
    overrides: list[str] = argument(
        [], metavar="key=value", help="changes to the system's configuration"
    )
    text: Path | None = option(
        None, metavar="FILE", default_text="ten words", help="the text, one sentence a line"
    )
    voice: list[str] = option(
        [], metavar="NAME", repeat=True, default_text="the system's own and all bundled ones",
        help="a voice that says all of it, 'own' for the system's; may be given several times",
    )  # fmt: skip
    seeds: Size = option(4, metavar="N", help="how often each is spoken")
    deaf: bool = option(False, group=REPORT, help="count what is lost, without any recogniser")
    lost_most: Count | None = option(
        None, metavar="N", group=LIMITS, help="most texts of which less than 0.2 s is left"
    )


@dataclass(frozen=True, kw_only=True)
class BindingOptions:
    """Measure how a model minds its text: its loss with another sentence's text minus its own."""

    system: str = argument(help="a system's name or file, or a trained folder")
    data: list[Path] = argument(
        metavar="DATA", help="files or folders of token data that it was not trained on"
    )
    limit: Count = option(200, metavar="N", help="use only N utterances")


@dataclass(frozen=True, kw_only=True)
class PeersOptions:
    """Compare systems with what a user might take instead: words, quality, work, memory, licence.

    Every synthesiser has a process of its own and speaks the same sentences; they take turns.
    """

    suite: str = argument(
        "peers", help="a suite of 'wishbone bench' whose contenders speak: a name, or a YAML file"
    )
    set: list[str] = argument(
        [], metavar="key=value", help="changes to it, such as contenders.flite=null"
    )
    text: Path = option(
        Path("prompts-en.txt"), metavar="FILE", help="the sentences: a file of prompts"
    )
    limit: Count = option(20, metavar="N", help="use only the first N sentences", group=REPORT)
    out: Path | None = option(
        None, metavar="FOLDER", default_text="a temporary one, removed at the end",
        help="where the recordings are kept", group=REPORT,
    )  # fmt: skip
    threads: Count = option(
        2, metavar="N", help="recordings that are judged side by side", group=REPORT
    )
    json: Path | None = option(
        None, metavar="FILE", default_text="not written",
        help="write the figures of every recording to this file", group=REPORT,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ContaminationOptions:
    """Find sentences that the texts of training data have, too, whole or in part."""

    text: Path = argument(metavar="FILE", help="the sentences: a file of prompts")
    data: list[Path] = argument(
        [Path("tokens/quickstart/train.parquet")],
        metavar="DATA",
        help="files or folders of token data, or names of bundled ones",
    )


@dataclass(frozen=True, kw_only=True)
class StatePrecisionOptions:
    """Measure what a state stored in fewer bits costs: the loss with its numbers rounded."""

    system: str = argument(help="a system's name or file, or a trained folder")
    data: list[Path] = argument(metavar="DATA", help="files or folders of token data")
    limit: Count = option(100, metavar="N", help="use only N utterances, drawn by chance")
    part: str = option(
        ".wkv", metavar="ENDING", help="round the parts of the state whose names end so"
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Simulate every promise of the statistics of 'wishbone ab', and print what was found."""

    trials: Size = option(
        1000, metavar="N", help="trials of each promise; 1000 know 5 % to 1.4 points"
    )
    only: str = option(
        "", metavar="WORDS", default_text="all of them", help="only promises with these words"
    )
    page: Path | None = option(
        None, metavar="FILE", help="write the table to this Markdown file, too"
    )
