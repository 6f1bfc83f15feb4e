"""Forced alignment: recordings and their text to audio data with the ends of words and phonemes.

A classifier of frames (``aligner.py``) learns from audio data of a teacher, whose phoneme ends are
exact, then from the recordings themselves as it has aligned them, and is stored in the output
folder. Any voice can be aligned that way with nothing to download.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from wishbone.core.audio import files as sound
from wishbone.core.contract.errors import DataError, WishboneError
from wishbone.core.contract.extensions.teacher import Spoken, Word
from wishbone.core.contract.text import Tokenizer
from wishbone.core.data.shards import Report, ShardReport, ShardStep, run_step
from wishbone.core.data.sources import Part, Recording, parts
from wishbone.core.data.speak import (
    SAMPLE_RATE,
    audio_row,
    build_front_end,
    require_usable,
    write_audio,
)
from wishbone.core.model.device import torch_threads
from wishbone.core.scale.step import Done
from wishbone.core.weights.provenance import hash_files
from wishbone.plugins.aligner import aligner as aligning
from wishbone.plugins.aligner.aligner import Aligner, Alignment, Utterance

PAUSE = 0.2
"""Seconds of silence between two words from which on it is a pause, written as a comma."""
BEFORE, AFTER = 0.1, 0.25
"""Seconds of a recording before the first phoneme and after the last one that stay."""
TOLERANCES = (0.02, 0.05)
"""Seconds; the share of boundaries within each is printed."""


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
    """Write audio data of ``sources`` with ends of words and phonemes into the folder ``out``.

    ``like`` are folders of audio data with phoneme ends: the classifier learns from ``like_hours``
    of each for ``steps`` steps, and then ``rounds`` times as long together with the sources. Texts
    are held out whole: all recordings of a share ``hold_out`` of them go into the folder
    ``held_out``. Recordings whose mean score is under ``least`` are of another text and dropped.
    ``learned`` is an ``aligner.safetensors`` of an earlier call, used without further training.
    Goes on where an earlier call stopped.
    """
    step = align_step(
        sources, out, like, like_hours=like_hours, steps=steps, rounds=rounds, least=least,
        hold_out=hold_out, held_out=held_out, tokenizer=tokenizer, speaker=speaker, seed=seed,
        learned=learned,
    )  # fmt: skip
    return align_part_of(step)


def align_part_of(step: AlignStep, part: int = 1, parts: int = 1) -> Report:
    """Learn unless another process did, make the missing shards of a part, and print progress."""
    step.learn()
    return [run_step(shards, part, parts) for shards in step.shards][0]


def align_step(
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
) -> AlignStep:
    """All that ``align`` does as a step for any number of processes, of which one learns."""
    out, source_parts = Path(out), parts(sources)
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

    def learn() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # whoever comes second waits and uses what the first has learned
        with FileLock(f"{path}.lock"):
            if not path.exists():
                known = [_with_phoneme_ends(folder, like_hours) for folder in like]
                examples = [recording for folder in known for recording in folder]
                _learn(source_parts, examples, steps, rounds, tokenizer, seed).save(path)

    def shards(inside: bool) -> ShardStep:
        folder = out if inside else Path(held_out)
        options = (str(folder), str(path), tokenizer, speaker, least, hold_out, inside)
        jobs = [(part.name, (part, *options)) for part in source_parts]
        return ShardStep(align_part, jobs, folder, settings)

    both = (shards(True), shards(False)) if hold_out else (shards(True),)
    return AlignStep(both, (lambda: None) if learned else learn)


@dataclass(frozen=True)
class AlignStep:
    """The shards of the output folder, those of the held-out texts, and the learning before."""

    shards: tuple[ShardStep, ...]
    learn: Callable[[], None]

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.shards[0].folder

    def prepare(self) -> None:
        """Learn unless another process did."""
        self.learn()

    def run(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """Make the missing shards of a rank."""
        self.prepare()
        for shards in self.shards:
            yield from shards.run(data, rank, world_size)

    def unfinished(self, rank: int = 0, world_size: int = 1) -> int:
        """Return how many shards of a rank are missing."""
        return sum(shards.unfinished(rank, world_size) for shards in self.shards)


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
    """Write one part into ``out/<name>.parquet``: held-out texts, or the others (``inside``)."""
    report, rows = ShardReport(source.name), []
    network = _loaded(aligner)
    for recording in source.recordings():
        if isinstance(recording, WishboneError):
            report.drop(recording.where, recording.do, recording.what)
            continue
        if (share_of(recording.text) < hold_out) == inside:
            continue
        try:
            with torch_threads(1):
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
    """A number in 0..1 that follows from the letters of a text, so equal texts have the same."""
    letters = "".join(c for c in text.lower() if c.isalnum())
    return int.from_bytes(hashlib.sha256(letters.encode()).digest()[:4], "big") / 2**32


def with_pauses(words: Sequence[Word], alignment: Alignment) -> list[Word]:
    """The words with a comma where the reader paused and the text has no mark."""
    result, place = [], 0
    for number, word in enumerate(words):
        place += len(word.phonemes)
        last = number == len(words) - 1
        gap = 0.0 if last else alignment.starts[place] - alignment.ends[place - 1]
        mark = "," if word.separator == " " and gap >= PAUSE else word.separator
        result.append(dataclasses.replace(word, separator=mark))
    return result


def word_ends(words: Sequence[Word], alignment: Alignment, seconds: float) -> list[float]:
    """Second at which each word ends: where the next begins, so it has the pause behind it."""
    places = np.cumsum([len(word.phonemes) for word in words])
    return [alignment.starts[place] for place in places[:-1]] + [seconds]


def _row(recording: Recording, network: Aligner, tokenizer: str, least: float) -> dict[str, Any]:
    """One row of audio data. Raises ``DataError`` with the reason to leave a recording out."""
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
    require_usable(audio)
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
def _front_end(tokenizer: str) -> Tokenizer:
    return build_front_end(tokenizer)


@cache
def _loaded(path: str) -> Aligner:
    return aligning.load(Path(path))


def _recordings(source_parts: Sequence[Part]) -> Iterator[Recording]:
    """The recordings that can be read."""
    for part in source_parts:
        for recording in part.recordings():
            if not isinstance(recording, WishboneError):
                yield recording


def _with_phoneme_ends(folder: str | Path, hours: float) -> list[Recording]:
    """Recordings of audio data with phoneme ends, so many hours of them."""
    result, seconds = [], 0.0
    for recording in _recordings(parts([folder])):
        if seconds > hours * 3600:
            break
        if recording.phoneme_ends:
            result.append(recording)
            seconds += len(recording.audio) / recording.sample_rate
    if not result:
        raise DataError(
            "No recording here says when its phonemes end.",
            str(folder),
            "Name audio data that 'wishbone data speak' made in --like.",
        )
    return result


def _learn(
    source_parts: Sequence[Part],
    examples: Sequence[Recording],
    steps: int,
    rounds: int,
    tokenizer: str,
    seed: int,
) -> Aligner:
    """Train on ``examples``, print the errors on a held-out twentieth, adapt to the sources."""
    torch.manual_seed(seed)
    symbols = {p.lstrip("ˈˌ") for row in examples for word in row.words for p in word.phonemes}
    network = Aligner(sorted(symbols))
    every = max(2, len(examples) // 20)
    held_out = examples[::every]
    training = [_utterance(row, network) for n, row in enumerate(examples) if n % every]
    _say(f"learning from {len(examples)} recordings whose phoneme ends are known")
    accuracy = aligning.train(network, training, steps, seed)
    _say(f"frames that are right: {100 * accuracy:.0f} %; {boundary_errors(network, held_out)}")
    for number in range(rounds):
        aligned = [*_aligned(source_parts, network, tokenizer)]
        # as many of the recordings as of the examples, so that neither is forgotten
        mixed = training + aligned * max(1, len(training) // max(1, len(aligned)))
        accuracy = aligning.train(network, mixed, steps, seed + number + 1)
        _say(
            f"round {number + 1} with {len(aligned)} recordings of the sources: frames that are"
            f" right {100 * accuracy:.0f} %; {boundary_errors(network, held_out)}"
        )
    return network


def boundary_errors(network: Aligner, held_out: Sequence[Recording]) -> str:
    """Distances of aligned phoneme ends from the exact ones, in words."""
    distances: list[float] = []
    for row in held_out:
        features = aligning.features_of(row.audio, row.sample_rate)
        ends = network.align(features, row.words).ends
        inner = slice(0, len(ends) - 1)
        exact = np.array(row.phoneme_ends[inner])
        distances += np.abs(np.array(ends[inner]) - exact).tolist()
    errors = np.array(distances)
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


def _aligned(source_parts: Sequence[Part], network: Aligner, tokenizer: str) -> Iterator[Utterance]:
    """The sources with the classes of the network's own alignment."""
    for recording in _recordings(source_parts):
        try:
            words = _words(recording, tokenizer)
            features = aligning.features_of(recording.audio, recording.sample_rate)
            alignment = network.align(features, words)
        except DataError:
            continue
        yield Utterance(features, aligning.labels_along(words, alignment, network, features))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
