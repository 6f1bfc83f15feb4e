"""Measurements of speech and of a codec, beside a reference, for ``wishbone evaluate``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wishbone.core.audio.files import Audio, resample
from wishbone.core.audio.pitch import semitones_off
from wishbone.core.audio.recording import at_level
from wishbone.core.config.compose import bundled, compose
from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.contract.extensions.metric import Clip
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.plan import seed_of
from wishbone.core.evaluate.measure.clips import read_folder
from wishbone.core.evaluate.measure.score import Panel, summarize
from wishbone.core.evaluate.prompts.prompt_lists import voice_of
from wishbone.core.evaluate.record import record_json
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.statistics.agreement import recognisers
from wishbone.core.evaluate.statistics.metrics import QUALITY, metric_class, value, weight
from wishbone.core.evaluate.statistics.paired import bootstrap
from wishbone.core.report.progress import progress, say
from wishbone.core.speak.guidance import Guide
from wishbone.core.speak.speaker import load
from wishbone.core.speak.voice import prepare
from wishbone.core.system.build import build_codec
from wishbone.core.system.system import Codec, System

Rows = list[dict[str, Any]]


def own_prompts() -> Path:
    """The bundled sentences that no bundled voice was trained on."""
    return bundled() / "ab" / "prompts-en.txt"


def own_reference() -> Path:
    """The bundled voices' teacher reading these sentences its own way."""
    return bundled() / "ab" / "reference-en"


def speak_all(
    name: str,
    prompts: Sequence[Prompt],
    out: Path,
    voice: str | None,
    seed: int,
    overrides: Sequence[str] = (),
    engine: str = "auto",
) -> tuple[list[Clip], Rows]:
    """Let a system speak every prompt; the recordings are kept in ``out``, named by line.

    Also returns the facts of every ``Generation``, as rows for a file of JSON.
    """
    system = load(name, overrides, engine=engine)
    if system.sampling.guidance != 1:
        # guidance that the system does not know is an error of the request, not of every clip
        Guide.of(system, system.sampling)
    if voice:
        # so is a voice that does not fit, such as one with the state of another model
        prepare(voice, system)
    generate.warm_up({"": system}, voice)
    clips, rows = [], []
    for prompt in progress(prompts, "speaking"):
        as_whom = voice_of(system, prompt, voice)
        generation, audio = generate.speak(system, prompt.text, seed_of(seed, prompt, 0), as_whom)
        rate = system.decoder.sample_rate
        generate.write(out / f"{prompt.key}.flac", audio, rate)
        clips.append(Clip(prompt.key, prompt.text, audio, rate))
        rows.append(record_json(generation))
    return clips, rows


def judge(
    panel: Panel, clips: Sequence[Clip], what: str, failures: Sequence[str] | None = None
) -> Rows:
    """Score clips; ``failures`` were seen while they were spoken."""
    pairs = list(zip(clips, failures or [""] * len(clips), strict=True))
    judged = panel.map(lambda scorer, pair: scorer.score(*pair), pairs)
    return [row for _, row in zip(progress(pairs, what), judged, strict=True)]


def matching(reference: Path, clips: Sequence[Clip], texts: Sequence[str]) -> list[Clip]:
    """The reference's recordings of the same lines, in the same order."""
    recordings = {clip.key: clip for clip in read_folder(reference, list(texts))}
    missing = [clip.key for clip in clips if clip.key not in recordings]
    if missing:
        raise UsageError(
            f"The reference has no recording of line {', '.join(missing[:5])}.",
            str(reference),
            "Give a folder with one recording per line, or --reference none.",
        )
    return [recordings[clip.key] for clip in clips]


def resynthesise(system: System | Codec, clips: Sequence[Clip]) -> tuple[list[Clip], list[int]]:
    """Every clip through the codec and back, and all codes that were used.

    A clip is coded at the level of the codec's training, as the recording of a voice is, and its
    copy is as loud as the clip.
    """
    copies, used = [], []
    for clip in progress(clips, "coding"):
        given = Audio(torch.from_numpy(clip.audio), clip.rate)
        sound = at_level(given, system.speech_tokenizer.level)
        gain = float(given.samples.norm() / sound.samples.norm().clamp(min=1e-9))
        audio = resample(sound, system.speech_tokenizer.sample_rate)
        with torch.inference_mode():
            codes = system.speech_tokenizer.encode(audio.samples)
            speaker = system.speech_tokenizer.encode_global(audio.samples)
            # codes alone do not tell whose voice it is
            try:
                original = resample(sound, system.decoder.sample_rate)
                prompt = system.decoder.hear(original.samples, codes)
            except UsageError as error:
                say(f"{clip.key}: spoken in the codec's own voice. {error.what}")
                prompt = {}
            stream = system.decoder.start(
                speaker=speaker if len(speaker) else None, prompt=prompt or None
            )
            copy = gain * torch.cat([stream.push(codes), stream.finish()])  # [S]
        used += codes.flatten().tolist()
        copies.append(Clip(clip.key, clip.text, copy.numpy(), system.decoder.sample_rate))
    return copies, used


def codec_of(name: str) -> Codec:
    """The codec of a system, which need not have a backbone yet."""
    return build_codec(compose(name))


def entropy(codes: Sequence[int]) -> float:
    """Of the codes' frequencies, in nats."""
    counts = np.unique(np.asarray(codes), return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def beside(rows: Rows, reference: Rows) -> list[str]:
    """Lines that compare clips with the reference's clips of the same texts."""
    lines = []
    for key in recognisers(QUALITY):
        info = metric_class(key).info
        pairs = [(value(a, info), value(b, info)) for a, b in zip(rows, reference, strict=True)]
        if any(None in pair for pair in pairs):
            continue
        weights = np.array([weight(row, info) for row in rows])
        wer = bootstrap(np.array([a - b for a, b in pairs]), weights)
        lines.append(
            f"{info.title} above the reference: {wer.estimate:+.1f} points"
            f" (95 %: {wer.low:+.1f} to {wer.high:+.1f})"
        )
    mos = bootstrap(
        np.array([a["dnsmos"] - b["dnsmos"] for a, b in zip(rows, reference, strict=True)])
    )
    return [
        *lines,
        f"predicted quality beside the reference: {mos.estimate:+.2f}"
        f" (95 %: {mos.low:+.2f} to {mos.high:+.2f})",
    ]


def pitch_beside(copies: Sequence[Clip], originals: Sequence[Clip]) -> dict[str, float]:
    """Distance of copies from the pitch of their originals, over all frames voiced in both.

    ``semitones`` is the median distance, ``octave`` the share of frames in which it is more than
    half an octave. Neither words nor predicted quality tell a voice that is an octave too high.
    """
    off = [np.zeros(0)]
    for copy, original in zip(copies, originals, strict=True):
        rate = copy.rate
        target = resample(Audio(torch.from_numpy(original.audio), original.rate), rate)
        off.append(semitones_off(copy.audio, target.samples.numpy(), rate))
    every = np.concatenate(off)
    if not len(every):
        return {"semitones": math.nan, "octave": math.nan}
    return {"semitones": float(np.median(every)), "octave": float((every > 6.0).mean())}


def gate(rows: Rows, reference: Rows, limits: Mapping[str, Any]) -> None:
    """Raise ``GateFailed`` naming every limit that is not kept, ``UsageError`` without a reference.

    ``limits`` may hold ``errors`` (points above the reference), ``quality`` (least mean DNSMOS)
    and ``failures`` (most failed clips); None means no limit.
    """
    total, broken = summarize(rows), []
    if limits.get("errors") is not None:
        if not reference:
            raise UsageError(
                "There is no reference that word errors could be above.",
                "--errors-above",
                "Give --reference, or leave that limit out.",
            )
        above = total["wer"] - summarize(reference)["wer"]
        if above > limits["errors"]:
            broken.append(f"word errors {above:.1f} points above, at most {limits['errors']:g}")
    if limits.get("quality") is not None and total["dnsmos"] < limits["quality"]:
        broken.append(f"DNSMOS {total['dnsmos']:.2f}, at least {limits['quality']:g}")
    if limits.get("failures") is not None and total["failures"] > limits["failures"]:
        broken.append(f"{total['failures']:.0f} failed clips, at most {limits['failures']}")
    if broken:
        raise GateFailed(
            f"Limits are not kept: {'; '.join(broken)}.",
            "wishbone evaluate",
            "Listen to the recordings, and train on or change the limits.",
        )
