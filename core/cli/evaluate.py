"""``wishbone evaluate``: measure recordings, a system, a codec, or how a model minds its text."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wishbone.core.cli.arguments import Parser, add_engine
from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.contract.metric import Clip
from wishbone.core.evaluate.measure import completion, long_text, speaker_identity
from wishbone.core.evaluate.measure.clips import read_audio, read_folder, read_lines
from wishbone.core.evaluate.measure.output import _speed, keep, report
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.report.terminal import progress

SEED = 1
"""Base seed of what a system says."""
NONE = Path("none")
"""What ``--reference`` says for none at all."""


def main(argv: list[str] | None = None) -> int:
    """Run ``wishbone evaluate``; returns the exit code."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    return options.run(options)


def _parser() -> Parser:
    parser = Parser(prog="wishbone evaluate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="WHAT")
    audio = commands.add_parser("audio", help="a folder of recordings against lines of text")
    audio.add_argument("folder", type=Path)
    audio.add_argument("--text", type=Path, required=True, help="one sentence a line")
    audio.add_argument("--voice", type=Path, help="a recording of the voice to compare with")
    _common(audio, _audio)
    speech = commands.add_parser("speech", help="a system, or a folder, beside its teacher")
    speech.add_argument("system", help="a system's name or file, or a folder of recordings")
    speech.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the system's configuration"
    )
    speech.add_argument("--voice", help="voice the system speaks with")
    add_engine(speech)
    speech.add_argument("--out", type=Path, help="keep the recordings here")
    _beside(speech)
    _common(speech, _speech)
    codec = commands.add_parser("codec", help="recordings through a codec, beside the originals")
    codec.add_argument("system", help="a system's name or file; only its codec is used")
    codec.add_argument("--out", type=Path, help="keep the recordings here")
    codec.add_argument("--peers", action="store_true", help="Opus and Codec 2 on the same audio")
    _beside(codec)
    _common(codec, _codec)
    _add_voices(commands)
    _add_drift(commands)
    _add_endings(commands)
    binding = commands.add_parser("binding", help="loss with another sentence's text minus own")
    binding.add_argument("system", help="a system's name or file, or a trained folder")
    binding.add_argument("data", type=Path, nargs="+", help="folders of token data")
    binding.add_argument("--limit", type=int, default=200, help="utterances (200)")
    binding.set_defaults(run=_binding)
    return parser


def _add_voices(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("voices", help="is each voice nearest to its own recordings?")
    parser.add_argument("system", help="a system, or a folder with a folder for every voice")
    parser.add_argument("voices", nargs="+", metavar="VOICE=RECORDINGS")
    parser.add_argument("--text", type=Path, help="one sentence a line (the bundled prompts)")
    parser.add_argument("--references", type=int, default=20, help="recordings of each (20)")
    parser.add_argument("--out", type=Path, help="keep the recordings here")
    add_engine(parser)
    parser.add_argument("--right-least", type=float, help="fail below this share for any pair")
    _common(parser, _voices)


def _add_drift(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("drift", help="a long text: its last minute against its first")
    parser.add_argument("system", help="a system's name or file, or one recording")
    parser.add_argument("--text", type=Path, help="what is read (the bundled prompts in a row)")
    parser.add_argument("--voice", help="voice the system speaks with")
    parser.add_argument("--minutes", type=float, default=5.0, help="of speech, about (5)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each stretch (60)")
    parser.add_argument("--out", type=Path, help="keep the recording here (.flac)")
    add_engine(parser)
    parser.add_argument("--drift-most", type=float, help="fail beyond so many points of error")
    _common(parser, _drift)


def _add_endings(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("endings", help="does every sentence begin, and end?")
    parser.add_argument("system", help="a system's name or file")
    parser.add_argument("--text", type=Path, help="one sentence a line (the bundled prompts)")
    parser.add_argument("--seeds", type=int, default=5, help="draws of every sentence (5)")
    parser.add_argument("--slots", type=int, default=8, help="spoken at once (8)")
    parser.add_argument("--voice", help="voice the system speaks with")
    add_engine(parser)
    parser.add_argument("--failures-most", type=int, help="fail beyond so many failed utterances")
    _common(parser, _endings)


def _common(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument("--limit", type=int, help="only the first so many")
    parser.add_argument("--threads", type=int, default=2, help="clips judged side by side (2)")
    parser.add_argument("--json", type=Path, help="write every clip's numbers here")
    parser.add_argument("--items", action="store_true", help="print every clip's line")
    parser.set_defaults(run=run)


def _beside(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", type=Path, help="one sentence a line (the bundled prompts)")
    parser.add_argument(
        "--reference", type=Path, help="recordings of these lines (the teacher's), or 'none'"
    )
    parser.add_argument("--errors-above", type=float, help="fail beyond so many points of error")
    parser.add_argument("--quality-least", type=float, help="fail below this mean DNSMOS")
    parser.add_argument("--failures-most", type=int, help="fail beyond so many failed clips")


def _audio(options: argparse.Namespace) -> int:
    clips = read_folder(options.folder, read_lines(options.text), options.limit)
    panel = Panel(options.threads)
    if options.voice:
        audio, rate = read_audio(options.voice)
        panel.set_reference([Clip("voice", "", audio, rate)])
    judged = panel.map(lambda scorer, clip: scorer.score(clip), clips)
    rows = [row for _, row in zip(progress(clips, "listening"), judged, strict=True)]
    report(str(options.folder), rows, options.items)
    keep(options.json, panel, {"items": rows})
    return 0


def _speech(options: argparse.Namespace) -> int:
    from wishbone.core.evaluate.experiment.plan import Prompt
    from wishbone.core.evaluate.measure import speech

    lines = read_lines(options.text or speech.own_prompts())
    made: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as aside:
        if Path(options.system).is_dir() and not (Path(options.system) / "config.yaml").exists():
            clips = read_folder(Path(options.system), lines, options.limit)
        else:
            prompts = [Prompt(f"{i:03d}", line) for i, line in enumerate(lines[: options.limit])]
            out = options.out or Path(aside)
            clips, made = speech.speak_all(
                options.system, prompts, out, options.voice, SEED, options.overrides,
                options.engine,
            )  # fmt: skip
        failures = [row["failure"] for row in made] or None
        return _judge_beside(options, clips, lines, failures, made)


def _codec(options: argparse.Namespace) -> int:
    from wishbone.core.evaluate.experiment import generate
    from wishbone.core.evaluate.measure import speech

    lines = read_lines(options.text or speech.own_prompts())
    if options.reference == NONE:
        raise UsageError(
            "There is nothing to put through the codec.",
            "--reference none",
            "Name a folder of recordings, or leave it out for the bundled ones.",
        )
    originals = read_folder(options.reference or speech.own_reference(), lines, options.limit)
    codec = speech.codec_of(options.system)
    copies, used = speech.resynthesise(codec, originals)
    if options.peers:
        return _peers(options, codec, originals, copies)
    for copy in copies if options.out else ():
        generate.write(options.out / f"{copy.key}.flac", copy.audio, copy.rate)
    status = _judge_beside(options, copies, lines, None, [])
    pitch = speech.pitch_beside(copies, originals)
    print(
        f"pitch: {pitch['semitones']:.1f} semitones off (median), more than half an octave in"
        f" {100 * pitch['octave']:.1f} % of frames"
    )
    print(f"codes: {len(used)} used, {len(set(used))} different, {speech.entropy(used):.2f} nats")
    return status


def _peers(options: argparse.Namespace, codec: Any, originals: list[Clip], own: list[Clip]) -> int:
    """The codec among other codecs: the same recordings through all of them."""
    from wishbone.plugins.reference_codecs import peers

    made, absent = peers.copies(originals)
    whole = {options.system: (own, peers.bits_of(codec.speech_tokenizer.codes)), **made}
    listening = peers.Listening(Panel(options.threads), options.json)
    reference = listening.judge("original", originals)
    judged = {
        name: (listening.judge(name, clips, bits), bits) for name, (clips, bits) in whole.items()
    }
    for line in peers.table(judged, reference, absent):
        print(line)
    return 0


def _judge_beside(
    options: argparse.Namespace,
    clips: list[Clip],
    lines: list[str],
    failures: list[str] | None,
    made: list[dict[str, Any]],
) -> int:
    """Judge clips and the reference's, print both, and hold them against the limits."""
    from wishbone.core.evaluate.measure import speech

    folder = options.reference or (speech.own_reference() if not options.text else None)
    if options.reference == NONE:
        folder = None
    panel = Panel(options.threads)
    reference = speech.matching(folder, clips, lines) if folder else []
    if reference:
        panel.set_reference(reference)
    theirs = speech.judge(panel, reference, "listening to the reference") if reference else []
    rows = speech.judge(panel, clips, "listening", failures)
    if theirs:
        report("reference", theirs)
    report(options.system, rows, options.items)
    if made:
        print(_speed(made))
    for line in speech.beside(rows, theirs) if theirs else ():
        print(line)
    keep(options.json, panel, {"items": rows, "reference": theirs, "made": made})
    speech.gate(
        rows,
        theirs,
        {
            "errors": options.errors_above,
            "quality": options.quality_least,
            "failures": options.failures_most,
        },
    )
    return 0


def _binding(options: argparse.Namespace) -> int:
    from wishbone.core.data.tokens import read_tokens
    from wishbone.core.evaluate.measure.text_binding import binding
    from wishbone.core.system.spec import read

    found = binding(read(options.system), read_tokens(options.data), options.limit)
    print(
        f"{options.system}: own text {found.own:.3f}, another's {found.other:.3f} nats per code;"
        f" binding gap {found.gap.estimate:+.3f} (95 %: {found.gap.low:+.3f} to"
        f" {found.gap.high:+.3f}), {found.utterances} utterances"
    )
    return 0


def _voices(options: argparse.Namespace) -> int:
    """Speak with every voice, or read what was spoken, and ask whose voice it is."""
    from wishbone.core.evaluate.measure import speech
    from wishbone.core.speak.speaker import load

    folders, panel = _named_recordings(options.voices), Panel(options.threads)
    references = {
        name: speaker_identity.recordings(path, options.references)
        for name, path in folders.items()
    }
    folder, most = Path(options.system), options.limit or 20
    if folder.is_dir() and not (folder / "config.yaml").exists():
        spoken = {name: speaker_identity.recordings(folder / name, most) for name in folders}
    else:
        lines = read_lines(options.text or speech.own_prompts())[:most]
        system = load(options.system, engine=options.engine)
        spoken = speaker_identity.speak_with_all(system, list(folders), lines, options.out)
    vectors, known = speaker_identity.embed_all(panel, references, spoken)
    shares = speaker_identity.shares(vectors, known)
    for line in speaker_identity.lines_of(shares, vectors):
        print(line)
    pairs = [{"voices": list(pair), "right": share} for pair, share in shares.pairs.items()]
    keep(options.json, panel, {"right": shares.right, "heard": shares.heard, "pairs": pairs})
    least = options.right_least
    if least is not None and shares.pairs and shares.worst[1] < least:
        raise GateFailed(
            f"{' and '.join(shares.worst[0])} are told apart {shares.worst[1]:.2f} of the time,"
            f" at least {least:g} was asked for.",
            "wishbone evaluate voices",
            "Train the codec or the model on more of these voices, or change the limit.",
        )
    return 0


def _named_recordings(pairs: list[str]) -> dict[str, Path]:
    """["a=x", ...] -> {"a": Path("x"), ...}."""
    folders: dict[str, Path] = {}
    for pair in pairs:
        name, sign, path = pair.partition("=")
        if not (name and sign and path) or name in folders:
            raise UsageError(
                f"'{pair}' does not name a voice and its recordings, or names one again.",
                "wishbone evaluate voices",
                "Write VOICE=FOLDER, once for every voice.",
            )
        folders[name] = Path(path)
    return folders


def _drift(options: argparse.Namespace) -> int:
    """Speak or read one long recording and compare its ends."""
    from wishbone.core.evaluate.measure import speech
    from wishbone.core.speak.speaker import load

    lines = read_lines(options.text or speech.own_prompts())
    source = Path(options.system)
    if source.is_file() and source.suffix not in (".yaml", ".yml"):
        clip = Clip("long", " ".join(lines), *read_audio(source))
    else:
        system = load(options.system, engine=options.engine)
        clip = long_text.read_aloud(system, lines, options.minutes, options.voice, options.out)
    panel = Panel(1)
    first, last, similarity = long_text.measure(panel.first, clip, options.seconds)
    for name, end in (("first", first), ("last", last)):
        print(
            f"{name} {options.seconds:g} s: word errors {end.wer:.1f} % ({end.errors} of"
            f" {end.words})  DNSMOS {end.dnsmos:.2f}"
        )
    drift = last.wer - first.wer
    print(f"{clip.seconds:.0f} s of speech: drift {drift:+.1f} points, likeness {similarity:.3f}")
    result = {"seconds": clip.seconds, "first": asdict(first), "last": asdict(last)}
    keep(options.json, panel, result | {"drift": drift, "similarity": similarity})
    if options.drift_most is not None and drift > options.drift_most:
        raise GateFailed(
            f"Word errors grew by {drift:.1f} points, at most {options.drift_most:g}.",
            "wishbone evaluate drift",
            "Listen to the end of the recording, and train on or change the limit.",
        )
    return 0


def _endings(options: argparse.Namespace) -> int:
    """Speak everything, count what went wrong, and hold it against the limit."""
    from wishbone.core.evaluate.experiment import generate
    from wishbone.core.evaluate.measure import speech
    from wishbone.core.evaluate.measure.output import write_json
    from wishbone.core.speak.pipeline import stream
    from wishbone.core.speak.speaker import load

    texts = read_lines(options.text or speech.own_prompts())[: options.limit]
    if not texts or options.seeds < 1 or options.slots < 1:
        raise UsageError(
            "There is nothing to say.",
            "wishbone evaluate endings",
            "Give a text with one sentence a line, and one seed and slot or more.",
        )
    system = load(options.system, engine=options.engine)
    # a wrong voice is one error at once and not a failure of every utterance
    next(stream(system, generate.WARM_UP, options.voice, 0))
    total = range(len(texts) * options.seeds)
    utterances = completion.endings(system, texts, options.seeds, options.voice, options.slots)
    rows = [row for _, row in zip(progress(total, "speaking"), utterances, strict=True)]
    for row in rows if options.items else [row for row in rows if row["failure"]]:
        reason = f"{row['failure']} {row['error']}".strip()
        print(f"seed {row['seed']}  {row['seconds']:.2f} s  {reason}  {row['text']}")
    for line in completion.summary(rows):
        print(line)
    write_json(options.json, {"items": rows})
    failed = sum(bool(row["failure"]) for row in rows)
    if options.failures_most is not None and failed > options.failures_most:
        raise GateFailed(
            f"{failed} of {len(rows)} utterances failed, at most {options.failures_most} may.",
            "wishbone evaluate endings",
            "Listen to the sentences above with 'wishbone say', and train on or change the limit.",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
