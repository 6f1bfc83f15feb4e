"""The work of each subcommand of ``wishbone evaluate``: measure, print, hold against limits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wishbone.core.cli.evaluation.audio_parts import judge_in_parts
from wishbone.core.cli.evaluation.evaluate_options import (
    AudioOptions,
    BindingOptions,
    CalibrationOptions,
    CodecOptions,
    ContaminationOptions,
    DriftOptions,
    EndingsOptions,
    PanelOptions,
    PeersOptions,
    ShortOptions,
    SpeechOptions,
    StatePrecisionOptions,
    VoicesOptions,
)
from wishbone.core.cli.evaluation.output import _speed, keep, report, report_more, write_json
from wishbone.core.cli.evaluation.peers import compare_peers
from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.contract.extensions.metric import Clip, Row
from wishbone.core.data.tokens import read_tokens
from wishbone.core.evaluate.calibration import promises
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.measure import (
    completion,
    long_text,
    speaker_identity,
    speech,
    state_precision,
)
from wishbone.core.evaluate.measure.clips import list_folder, read_audio, read_folder, read_lines
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.evaluate.measure.text_binding import binding
from wishbone.core.evaluate.prompts import contamination
from wishbone.core.evaluate.prompts.prompt_lists import find_prompts, read_prompts
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.statistics.agreement import recognisers
from wishbone.core.evaluate.statistics.metrics import QUALITY, need_packages
from wishbone.core.report import table
from wishbone.core.report.progress import progress
from wishbone.core.speak import speaker, text_to_speech
from wishbone.core.speak.voice_files import bundled
from wishbone.core.system.spec import read

SEED = 1
"""Base seed of what a system says."""
NONE = Path("none")
"""Value of ``--reference`` for no reference at all."""


def judge_audio(options: AudioOptions) -> int:
    """Judge recordings against their texts, and print the figures."""
    prompts = read_prompts(find_prompts(options.text))
    clips = read_folder(options.folder, [prompt.text for prompt in prompts], options.limit)
    panel = _audio_panel(options)
    scores = panel.map(lambda scorer, clip: scorer.score(clip), clips)
    rows = [row for _, row in zip(progress(clips, "listening"), scores, strict=True)]
    return _report_audio(options, rows, prompts, panel)


def judge_audio_in_parts(options: AudioOptions, words: Sequence[str]) -> int:
    """Do the same by the parts of the command ``wishbone evaluate WORDS``, or be one of them."""
    prompts = read_prompts(find_prompts(options.text))
    files = list_folder(options.folder, [prompt.text for prompt in prompts], options.limit)
    rows = judge_in_parts(options, words, files, lambda: _audio_panel(options))
    return 0 if rows is None else _report_audio(options, rows, prompts, _audio_panel(options))


def _audio_panel(options: AudioOptions) -> Panel:
    panel = _panel(options)
    if options.voice:
        audio, rate = read_audio(options.voice)
        panel.set_reference([Clip("voice", "", audio, rate)])
    return panel


def _report_audio(
    options: AudioOptions, rows: Sequence[Row], prompts: Sequence[Prompt], panel: Panel
) -> int:
    report(str(options.folder), rows, options.items)
    report_more(rows, prompts, panel)
    keep(options.json, panel, {"items": list(rows)})
    return 0


def _panel(options: PanelOptions) -> Panel:
    """The judges: the usual metrics and those that are asked for."""
    need_packages(options.metrics)
    return Panel(options.threads, list(dict.fromkeys([*QUALITY, *options.metrics])))


def judge_speech(options: SpeechOptions) -> int:
    """Let a system speak, or read what was spoken, and judge it beside the reference."""
    prompts = read_prompts(find_prompts(options.text or speech.own_prompts()))
    generated: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as aside:
        if Path(options.system).is_dir() and not (Path(options.system) / "config.yaml").exists():
            texts = [prompt.text for prompt in prompts]
            clips = read_folder(Path(options.system), texts, options.limit)
        else:
            out, prompts = options.out or Path(aside), prompts[: options.limit]
            clips, generated = speech.speak_all(
                options.system, prompts, out, options.voice, SEED, options.overrides,
                options.engine,
            )  # fmt: skip
        failures = [row["failure"] for row in generated] or None
        return _judge_beside(options, clips, prompts, failures, generated)


def judge_codec(options: CodecOptions) -> int:
    """Put recordings through a codec, and judge the copies beside the originals."""
    prompts = read_prompts(find_prompts(options.text or speech.own_prompts()))
    originals = read_originals(options, [prompt.text for prompt in prompts])
    codec = speech.codec_of(options.system)
    copies, used = speech.resynthesise(codec, originals)
    for copy in copies if options.out else ():
        generate.write(options.out / f"{copy.key}.flac", copy.audio, copy.rate)
    status = _judge_beside(options, copies, prompts, None, [])
    pitch = speech.pitch_beside(copies, originals)
    print(
        f"pitch: {pitch['semitones']:.1f} semitones off (median), more than half an octave in"
        f" {100 * pitch['octave']:.1f} % of frames"
    )
    print(f"codes: {len(used)} used, {len(set(used))} different, {speech.entropy(used):.2f} nats")
    return status


def read_originals(options: CodecOptions, lines: list[str]) -> list[Clip]:
    """Read the recordings that go through a codec. Raises ``UsageError`` where there are none."""
    if options.reference == NONE:
        raise UsageError(
            "There is nothing to put through the codec.",
            "--reference none",
            "Name a folder of recordings, or leave it out for the bundled ones.",
        )
    return read_folder(options.reference or speech.own_reference(), lines, options.limit)


def _judge_beside(
    options: SpeechOptions | CodecOptions,
    clips: list[Clip],
    prompts: list[Prompt],
    failures: list[str] | None,
    generated: list[dict[str, Any]],
) -> int:
    """Judge clips and the reference's, print both, and hold them against the limits."""
    folder = options.reference or (speech.own_reference() if not options.text else None)
    if options.reference == NONE:
        folder = None
    panel = _panel(options)
    texts = [prompt.text for prompt in prompts]
    reference = speech.matching(folder, clips, texts) if folder else []
    if reference:
        panel.set_reference(reference)
    reference_rows = (
        speech.judge(panel, reference, "listening to the reference") if reference else []
    )
    rows = speech.judge(panel, clips, "listening", failures)
    if reference_rows:
        report("reference", reference_rows)
    report(options.system, rows, options.items)
    report_more(rows, prompts, panel)
    if generated:
        print(_speed(generated))
    for line in speech.beside(rows, reference_rows) if reference_rows else ():
        print(line)
    keep(options.json, panel, {"items": rows, "reference": reference_rows, "made": generated})
    speech.gate(
        rows,
        reference_rows,
        {
            "errors": options.errors_above,
            "quality": options.quality_least,
            "failures": options.failures_most,
        },
    )
    return 0


def measure_binding(options: BindingOptions) -> int:
    """Measure by how much the loss rises with another sentence's text."""
    result = binding(read(options.system), read_tokens(options.data), options.limit)
    print(
        f"{options.system}: own text {result.own:.3f}, another's {result.other:.3f} nats per code;"
        f" binding gap {result.gap.estimate:+.3f} (95 %: {result.gap.low:+.3f} to"
        f" {result.gap.high:+.3f}), {result.utterances} utterances"
    )
    return 0


def tell_voices_apart(options: VoicesOptions) -> int:
    """Speak with every voice, or read what was spoken, and ask whose voice it is."""
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
        system = speaker.load(options.system, engine=options.engine)
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


def measure_drift(options: DriftOptions) -> int:
    """Speak or read one long recording and compare its ends."""
    lines = read_lines(options.text or speech.own_prompts())
    source = Path(options.system)
    if source.is_file() and source.suffix not in (".yaml", ".yml"):
        clip = Clip("long", " ".join(lines), *read_audio(source))
    else:
        system = speaker.load(options.system, engine=options.engine)
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


def count_endings(options: EndingsOptions) -> int:
    """Speak everything, count what went wrong, and hold it against the limit."""
    texts = read_lines(options.text or speech.own_prompts())[: options.limit]
    if not texts or options.seeds < 1 or options.slots < 1:
        raise UsageError(
            "There is nothing to say.",
            "wishbone evaluate endings",
            "Give a text with one sentence a line, and one seed and slot or more.",
        )
    system = speaker.load(options.system, engine=options.engine)
    # a wrong voice is one error at once and not a failure of every utterance
    next(text_to_speech.stream(system, generate.WARM_UP, options.voice, 0))
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


def judge_short_texts(options: ShortOptions) -> int:
    """Say single words in every voice, count, and hold the lost ones against the limit."""
    torch.set_num_threads(1)
    texts = read_lines(options.text) if options.text else list(completion.SHORT_TEXTS)
    voices = ["" if name == "own" else name for name in options.voice] or ["", *bundled()]
    judges = [] if options.deaf else list(recognisers(QUALITY))
    need_packages(judges)
    system = speaker.load(options.system, options.overrides, engine=options.engine)
    panel = Panel(options.threads, judges)
    texts = texts[: options.limit]
    total = range(len(texts) * len(voices) * options.seeds)
    judged = completion.short_texts(system, panel, texts, voices, options.seeds)
    rows = [row for _, row in zip(progress(total, "listening"), judged, strict=True)]
    table.show(completion.short_table(rows, judges))
    keep(options.json, panel, {"items": rows})
    lost = sum(row["seconds"] < completion.LOST for row in rows)
    if options.lost_most is not None and lost > options.lost_most:
        raise GateFailed(
            f"{lost} of {len(rows)} texts were lost, at most {options.lost_most} may be.",
            "wishbone evaluate short",
            "Set layout.lone_word: again where the layout has it, or train on single words.",
        )
    return 0


def measure_state_precision(options: StatePrecisionOptions) -> int:
    """Print the loss for every type that a state can be stored in, and what each adds."""
    torch.set_num_threads(1)
    for line in state_precision.compare(
        read(options.system), read_tokens(options.data), options.limit, options.part
    ):
        print(line, flush=True)
    return 0


def find_contamination(options: ContaminationOptions) -> int:
    """Print the sentences that training data have, too, and how many they are."""
    sentences = [prompt.text for prompt in read_prompts(find_prompts(options.text))]
    texts = [text for path in options.data for text in read_tokens(path).texts]
    matches = contamination.overlaps(sentences, texts)
    for line in contamination.summary(sentences, matches, len(texts)):
        print(line)
    return 0


def calibrate(options: CalibrationOptions) -> int:
    """Simulate the promises of the statistics; a broken one is no error of the command."""
    chosen = [promise for promise in promises.promises() if options.only in promise.name]
    if not chosen or options.trials < 1:
        raise UsageError(
            "There is nothing to simulate.",
            "wishbone evaluate calibration",
            "Give one trial or more, and words of a promise's name with --only.",
        )
    bar = progress(chosen, "simulating")
    answers = [promises.simulate(promise, options.trials) for promise in bar]
    content = promises.table(answers)
    table.show(content)
    if options.page:
        part = f" --only '{options.only}'" if options.only else ""
        command = f"wishbone evaluate calibration --trials {options.trials}{part}"
        text = f"# {content.title}\n\n{promises.ABOUT}\n\nCommand: `{command}`.\n\n"
        write_text(options.page, text + table.markdown(content) + "\n")
    return 0


RUN: dict[type, Callable[[Any], int]] = {
    SpeechOptions: judge_speech,
    CodecOptions: judge_codec,
    AudioOptions: judge_audio,
    VoicesOptions: tell_voices_apart,
    DriftOptions: measure_drift,
    EndingsOptions: count_endings,
    ShortOptions: judge_short_texts,
    PeersOptions: compare_peers,
    BindingOptions: measure_binding,
    ContaminationOptions: find_contamination,
    StatePrecisionOptions: measure_state_precision,
    CalibrationOptions: calibrate,
}
"""Options -> what runs with them."""
