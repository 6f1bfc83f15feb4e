"""What ``wishbone evaluate`` measures of a system's speech and of a codec, beside a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wishbone.core.audio.files import Audio, resample
from wishbone.core.audio.pitch import semitones_off
from wishbone.core.config.compose import bundled, compose
from wishbone.core.contract.errors import GateFailed, UsageError
from wishbone.core.contract.metric import Clip
from wishbone.core.evaluate.experiment import generate
from wishbone.core.evaluate.experiment.plan import Prompt, seed_of
from wishbone.core.evaluate.measure.clips import read_folder
from wishbone.core.evaluate.measure.score import Panel, summarize
from wishbone.core.evaluate.report.terminal import progress, say
from wishbone.core.evaluate.statistics.paired import bootstrap
from wishbone.core.speak.guidance import Guide
from wishbone.core.speak.speaker import load
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
) -> tuple[list[Clip], list[dict[str, Any]]]:
    """Let a system speak every prompt; the recordings are kept in ``out``, named by line."""
    system = load(name, overrides, engine=engine)
    # what no clip could do is an error of the request, not of the clips
    Guide.of(system, system.sampling)
    generate.warm_up({"": system}, voice)
    clips, made = [], []
    for prompt in progress(prompts, "speaking"):
        row, audio = generate.speak(system, prompt.text, seed_of(seed, prompt, 0), voice)
        rate = system.decoder.sample_rate
        generate.write(out / f"{prompt.key}.flac", audio, rate)
        clips.append(Clip(prompt.key, prompt.text, audio, rate))
        made.append(row)
    return clips, made


def judge(
    panel: Panel, clips: Sequence[Clip], what: str, failures: Sequence[str] | None = None
) -> Rows:
    """Score clips; ``failures`` were seen while they were made."""
    known = failures or [""] * len(clips)
    pairs = list(zip(clips, known, strict=True))
    judged = panel.map(lambda scorer, pair: scorer.score(*pair), pairs)
    return [row for _, row in zip(progress(pairs, what), judged, strict=True)]


def matching(reference: Path, clips: Sequence[Clip], texts: Sequence[str]) -> list[Clip]:
    """The reference's recordings of the same lines, in the same order."""
    known = {clip.key: clip for clip in read_folder(reference, list(texts))}
    missing = [clip.key for clip in clips if clip.key not in known]
    if missing:
        raise UsageError(
            f"The reference has no recording of line {', '.join(missing[:5])}.",
            str(reference),
            "Give a folder with one recording per line, or --reference none.",
        )
    return [known[clip.key] for clip in clips]


def resynthesise(system: System | Codec, clips: Sequence[Clip]) -> tuple[list[Clip], list[int]]:
    """Every clip through the codec and back, and all codes that were used."""
    copies, used = [], []
    for clip in progress(clips, "coding"):
        sound = Audio(torch.from_numpy(clip.audio), clip.rate)
        audio = resample(sound, system.speech_tokenizer.sample_rate)
        with torch.inference_mode():
            codes = system.speech_tokenizer.encode(audio.samples)
            whole = system.speech_tokenizer.encode_global(audio.samples)
            # whose voice it is, is not for the codes to say
            try:
                mine = resample(sound, system.decoder.sample_rate)
                heard = system.decoder.hear(mine.samples, codes)
            except UsageError as error:
                say(f"{clip.key}: spoken in the codec's own voice. {error.what}")
                heard = {}
            stream = system.decoder.start(
                speaker=whole if len(whole) else None, prompt=heard or None
            )
            made = torch.cat([stream.push(codes), stream.finish()])
        used += codes.flatten().tolist()
        copies.append(Clip(clip.key, clip.text, made.numpy(), system.decoder.sample_rate))
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
    words = np.array([row["words"] for row in rows], float)

    def errors(found: Rows) -> np.ndarray:
        return np.array([min(r["errors"], r["words"]) for r in found]) / np.maximum(words, 1)

    wer = bootstrap(100 * (errors(rows) - errors(reference)), words)
    mos = bootstrap(
        np.array([a["dnsmos"] - b["dnsmos"] for a, b in zip(rows, reference, strict=True)])
    )
    return [
        f"word errors above the reference: {wer.estimate:+.1f} points"
        f" (95 %: {wer.low:+.1f} to {wer.high:+.1f})",
        f"predicted quality beside the reference: {mos.estimate:+.2f}"
        f" (95 %: {mos.low:+.2f} to {mos.high:+.2f})",
    ]


def pitch_beside(copies: Sequence[Clip], originals: Sequence[Clip]) -> dict[str, float]:
    """How far copies are from the pitch of their originals, over all frames voiced in both.

    ``semitones`` is the median distance, ``octave`` the share of frames in which it is more than
    half an octave. Neither words nor predicted quality tell a voice that is an octave too high.
    """
    off = [np.zeros(0)]
    for copy, original in zip(copies, originals, strict=True):
        rate = copy.rate
        wanted = resample(Audio(torch.from_numpy(original.audio), original.rate), rate)
        off.append(semitones_off(copy.audio, wanted.samples.numpy(), rate))
    every = np.concatenate(off)
    if not len(every):
        return {"semitones": math.nan, "octave": math.nan}
    return {"semitones": float(np.median(every)), "octave": float((every > 6.0).mean())}


def gate(rows: Rows, reference: Rows, wanted: Mapping[str, Any]) -> None:
    """Raise ``GateFailed`` naming every limit that is not kept, ``UsageError`` without a reference.

    ``wanted`` may hold ``errors`` (points above the reference), ``quality`` (least mean DNSMOS)
    and ``failures`` (most failed clips); None means no limit.
    """
    got, broken = summarize(rows), []
    if wanted.get("errors") is not None:
        if not reference:
            raise UsageError(
                "There is no reference that word errors could be above.",
                "--errors-above",
                "Give --reference, or leave that limit out.",
            )
        above = got["wer"] - summarize(reference)["wer"]
        if above > wanted["errors"]:
            broken.append(f"word errors {above:.1f} points above, at most {wanted['errors']:g}")
    if wanted.get("quality") is not None and got["dnsmos"] < wanted["quality"]:
        broken.append(f"DNSMOS {got['dnsmos']:.2f}, at least {wanted['quality']:g}")
    if wanted.get("failures") is not None and got["failures"] > wanted["failures"]:
        broken.append(f"{got['failures']:.0f} failed clips, at most {wanted['failures']}")
    if broken:
        raise GateFailed(
            f"Limits are not kept: {'; '.join(broken)}.",
            "wishbone evaluate",
            "Listen to the recordings, and train on or change the limits.",
        )
