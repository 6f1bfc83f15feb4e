"""Recordings of people to audio data: what they say is known, and when is found out.

``wishbone data align``: a classifier of frames (``aligner.py``) learns from audio data of a
teacher, then from the recordings themselves as it has aligned them, and is kept in the output
folder. Any voice can be aligned that way with nothing to download.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wishbone.core.audio import files as sound
from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.errors import ConfigError, DataError, WishboneError
from wishbone.core.contract.teacher import Spoken, Word
from wishbone.core.data.shards import Report, ShardReport, run_shards
from wishbone.core.data.sources import Part, Recording, parts
from wishbone.core.data.speak import SAMPLE_RATE, audio_row, check_audio, write_audio
from wishbone.core.weights.provenance import hash_files
from wishbone.plugins.aligner import aligner as aligning
from wishbone.plugins.aligner.aligner import Aligner, Alignment, Utterance

PAUSE = 0.2
"""Seconds of silence between two words from which on it is a pause, written as a comma."""
BEFORE, AFTER = 0.1, 0.25
"""Seconds that are kept before the first phoneme and after the last one."""
TOLERANCES = (0.02, 0.05)
"""Seconds; how many boundaries lie within is printed."""


def align(
    sources: Sequence[str | Path],
    out: str | Path,
    like: Sequence[str | Path],
    *,
    like_hours: float = 0.5,
    steps: int = 300,
    rounds: int = 1,
    least: float = -2.0,
    hold_out: float = 0.0,
    held_out: str | Path = "",
    tokenizer: str = "phonemes",
    speaker: str = "",
    seed: int = 1,
    learned: str | Path = "",
) -> Report:
    """Audio data of ``sources`` with the ends of words and phonemes into the folder ``out``.

    ``like`` are folders of audio data with phoneme ends, of which ``like_hours`` each are learned
    from for ``steps`` steps, and then ``rounds`` times as many together with the sources. Texts
    are held out whole: all recordings of a share ``hold_out`` of them go into the folder
    ``held_out``. Recordings whose mean score is under ``least`` say something else than their
    text and are dropped. ``learned`` is a file that an earlier call left in its output folder, to
    be used as it is: nothing is learned then. Goes on where an earlier call stopped.
    """
    out, found = Path(out), parts(sources)
    digest = hashlib.sha256(" ".join(sorted(map(str, like))).encode()).hexdigest()[:16]
    learning = {"like": digest, "like_hours": like_hours, "steps": steps, "rounds": rounds}
    settings = learning | {"seed": seed, "tokenizer": tokenizer, "least": least}
    settings |= {"speaker": speaker, "hold_out": hold_out}
    path = Path(learned) if learned else out / "aligner.safetensors"
    if learned:
        if not path.is_file():
            raise DataError(
                "There is no such file.", str(path), "Name the aligner.safetensors of a folder."
            )
        settings |= {"learned": hash_files([path])[:16]}
    elif not path.exists():
        known = [row for folder in like for row in _known(folder, like_hours)]
        _learn(found, known, steps, rounds, tokenizer, seed).save(path)

    def jobs(inside: bool) -> list[tuple[str, tuple[Any, ...]]]:
        names = (str(out if inside else held_out), str(path), tokenizer, speaker)
        return [(each.name, (each, *names, least, hold_out, inside)) for each in found]

    report = run_shards(align_part, jobs(True), out, settings)
    if hold_out:
        run_shards(align_part, jobs(False), Path(held_out), settings)
    return report


def align_part(
    source: Part,
    out: str,
    aligner: str,
    tokenizer: str,
    speaker: str,
    least: float,
    hold_out: float,
    inside: bool,
) -> ShardReport:
    """One part into ``out/<name>.parquet``: what is held out, or what is not (``inside``)."""
    report, rows = ShardReport(source.name), []
    network = _loaded(aligner)
    for recording in source.recordings():
        if isinstance(recording, WishboneError):
            report.drop(recording.where, recording.do, recording.what)
            continue
        if (share_of(recording.text) < hold_out) == inside:
            continue
        try:
            row = _row(recording, network, tokenizer, least)
        except DataError as error:
            report.drop(recording.id, recording.text, error.what)
            continue
        rows.append(row | {"speaker": recording.speaker or speaker})
        report.seconds += row["seconds"]
    report.kept = len(rows)
    write_audio(Path(out) / f"{source.name}.parquet", rows)
    return report


def share_of(text: str) -> float:
    """A text to a number in 0..1 that depends on its letters alone: the same prompt, the same."""
    letters = "".join(c for c in text.lower() if c.isalnum())
    return int.from_bytes(hashlib.sha256(letters.encode()).digest()[:4], "big") / 2**32


def with_pauses(words: Sequence[Word], alignment: Alignment) -> list[Word]:
    """The words as they were read: a pause where the text has no mark becomes a comma."""
    read, place = [], 0
    for number, word in enumerate(words):
        place += len(word.phonemes)
        last = number == len(words) - 1
        gap = 0.0 if last else alignment.starts[place] - alignment.ends[place - 1]
        mark = "," if word.separator == " " and gap >= PAUSE else word.separator
        read.append(dataclasses.replace(word, separator=mark))
    return read


def word_ends(words: Sequence[Word], alignment: Alignment, seconds: float) -> list[float]:
    """A word ends where the next begins, so a pause belongs to the word before it."""
    places = np.cumsum([len(word.phonemes) for word in words])
    return [alignment.starts[place] for place in places[:-1]] + [seconds]


def _row(recording: Recording, network: Aligner, tokenizer: str, least: float) -> dict[str, Any]:
    """One row of audio data; ``DataError`` says why a recording is left out."""
    words = _words(recording, tokenizer)
    features = aligning.features_of(recording.audio, recording.sample_rate)
    alignment = network.align(features, words)
    if alignment.score < least:
        raise DataError(f"says something else than its text: score {alignment.score:.2f}")
    audio = sound.resample(sound.Audio(recording.audio, recording.sample_rate), SAMPLE_RATE)
    begin = max(0.0, alignment.starts[0] - BEFORE)
    end = min(audio.seconds, alignment.ends[-1] + AFTER)
    cut = audio.samples[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    audio = sound.Audio(cut, SAMPLE_RATE)
    check_audio(audio)
    moved = Alignment(
        tuple(start - begin for start in alignment.starts),
        tuple(min(end - begin, audio.seconds) for end in alignment.ends),
        alignment.score,
    )
    words = with_pauses(words, moved)
    spoken = Spoken(cut, SAMPLE_RATE, word_ends(words, moved, audio.seconds), moved.ends)
    return audio_row(recording.id, recording.text, words, spoken, audio)


def _words(recording: Recording, tokenizer: str) -> list[Word]:
    words = list(recording.words) or _front_end(tokenizer).words(recording.text)
    if not words:
        raise DataError("nothing to say in the text")
    return words


@cache
def _front_end(tokenizer: str) -> Any:
    front_end = parse_slot({"tokenizer": {"name": tokenizer}}, "tokenizer").build()
    if not hasattr(front_end, "words"):
        raise ConfigError(
            f"The tokenizer '{tokenizer}' cannot say how words are spoken (it has no 'words').",
            "the front end of an alignment",
            "Use --tokenizer phonemes.",
        )
    return front_end


@cache
def _loaded(path: str) -> Aligner:
    return aligning.load(Path(path))


def _recordings(found: Sequence[Part]) -> Iterator[Recording]:
    for each in found:
        for recording in each.recordings():
            if not isinstance(recording, WishboneError):
                yield recording


def _known(folder: str | Path, hours: float) -> list[Recording]:
    """Recordings of audio data with phoneme ends, so many hours of them."""
    kept, seconds = [], 0.0
    for recording in _recordings(parts([folder])):
        if seconds > hours * 3600:
            break
        if recording.phoneme_ends:
            kept.append(recording)
            seconds += len(recording.audio) / recording.sample_rate
    if not kept:
        raise DataError(
            "No recording here says when its phonemes end.",
            str(folder),
            "Name audio data that 'wishbone data speak' made in --like.",
        )
    return kept


def _learn(
    found: Sequence[Part],
    learned: Sequence[Recording],
    steps: int,
    rounds: int,
    tokenizer: str,
    seed: int,
) -> Aligner:
    """Train on the teacher's audio, tell how exact that is, then adapt to the sources."""
    torch.manual_seed(seed)
    symbols = sorted(
        {p.lstrip("ˈˌ") for each in learned for word in each.words for p in word.phonemes}
    )
    network = Aligner(symbols)
    every = max(2, len(learned) // 20)
    _say(f"learning from {len(learned)} recordings whose phoneme ends are known")
    right = aligning.train(
        network, [_utterance(each, network) for n, each in enumerate(learned) if n % every],
        steps, seed,
    )  # fmt: skip
    _say(f"frames that are right: {100 * right:.0f} %; {exactness(network, learned[::every])}")
    known = [_utterance(each, network) for n, each in enumerate(learned) if n % every]
    for number in range(rounds):
        own = [*_aligned(found, network, tokenizer)]
        # as much of the recordings as of what is known, so that neither is forgotten
        mixed = known + own * max(1, len(known) // max(1, len(own)))
        right = aligning.train(network, mixed, steps, seed + number + 1)
        _say(
            f"round {number + 1} with {len(own)} recordings of the sources: frames that are right"
            f" {100 * right:.0f} %; {exactness(network, learned[::every])}"
        )
    return network


def exactness(network: Aligner, held_out: Sequence[Recording]) -> str:
    """How far found ends of phonemes are from known ones, in words."""
    off: list[float] = []
    for each in held_out:
        found = network.align(aligning.features_of(each.audio, each.sample_rate), each.words).ends
        inner = slice(0, len(found) - 1)
        off += np.abs(np.array(found[inner]) - np.array(each.phoneme_ends[inner])).tolist()
    errors = np.array(off)
    within = ", ".join(
        f"{100 * float((errors <= limit + 1e-9).mean()):.0f} % within {1000 * limit:.0f} ms"
        for limit in TOLERANCES
    )
    return f"ends of {len(held_out)} unseen: median {1000 * np.median(errors):.0f} ms off, {within}"


def _utterance(recording: Recording, network: Aligner) -> Utterance:
    features = aligning.features_of(recording.audio, recording.sample_rate)
    labels = aligning.labels_of(
        recording.words, recording.ends, recording.phoneme_ends, network, features.shape[1]
    )
    return Utterance(features, labels)


def _aligned(found: Sequence[Part], network: Aligner, tokenizer: str) -> Iterator[Utterance]:
    """The sources with the classes that the network itself gives them."""
    for recording in _recordings(found):
        try:
            words = _words(recording, tokenizer)
            features = aligning.features_of(recording.audio, recording.sample_rate)
            alignment = network.align(features, words)
        except DataError:
            continue
        yield Utterance(features, aligning.labels_along(words, alignment, network, features))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
