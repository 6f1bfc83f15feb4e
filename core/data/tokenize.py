"""Audio to token data with the tokenizer and the codec of a system."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from wishbone.core.audio import files as sound
from wishbone.core.config.compose import Config, compose, weights_folder
from wishbone.core.config.schema import parse_slot
from wishbone.core.config.text_files import read_text
from wishbone.core.contract.codec import SpeechTokenizer
from wishbone.core.contract.errors import ConfigError, UsageError, WishboneError
from wishbone.core.contract.text import Tokenizer
from wishbone.core.data.shards import Report, ShardReport, ShardStep, run_step
from wishbone.core.data.sources import Part, Recording, parts
from wishbone.core.data.tokens import write_tokens
from wishbone.core.model.device import torch_threads
from wishbone.core.system.loading import load_part

BATCH_SECONDS = 40.0
"""Audio that goes through the codec at once; more gains nothing on one core."""
SILENT = 1e-3
"""Largest sample of a recording without speech; a microphone's own noise is about there."""
FASTEST, SLOWEST, SPARE = 0.01, 0.6, 3.0
"""Seconds for each id of a text that speech takes at least and at most, and seconds of silence
around it. Speech has about 0.07; outside of these the text is that of another recording."""


class TokenMaker:
    """The two parts of a system that make token data: its tokenizer and its speech tokenizer."""

    def __init__(self, config: Config) -> None:
        self.text: Tokenizer = parse_slot(config, "tokenizer").build()
        slot = parse_slot(config, "speech_tokenizer")
        self.speech: SpeechTokenizer = slot.build()
        folder = slot.weights
        if not folder:
            raise ConfigError(
                "The speech tokenizer has no weights, so its codes would mean nothing.",
                "speech_tokenizer.weights",
                "Name the folder of a trained codec: speech_tokenizer.weights=FOLDER.",
            )
        load_part(self.speech, weights_folder(folder), "speech_tokenizer")
        self.speech.eval().requires_grad_(False)
        digest = hashlib.sha256()
        for name, tensor in sorted(self.speech.state_dict().items()):
            digest.update(name.encode() + tensor.float().numpy().tobytes())
        self.about = {
            "tokenizer": config["tokenizer"]["name"],
            "codec": config["speech_tokenizer"]["name"],
            "codec_weights": digest.hexdigest()[:16],
            "codebooks": self.speech.codes.codebooks,
            "rate": self.speech.codes.rate,
        }

    def text_ids(self, recording: Recording) -> list[int]:
        """The ids of the words as they were spoken, where the tokenizer has ids for that."""
        ids = self.text.encode_words(recording.words) if recording.words else None
        return self.text.encode(recording.text) if ids is None else ids

    def codes(self, recordings: Sequence[Recording]) -> list[Tensor]:
        """Codes [T, Q] of every recording; all at once, which some codecs do faster."""
        rate = self.speech.sample_rate
        audios = [
            sound.resample(sound.Audio(r.audio, r.sample_rate), rate).samples for r in recordings
        ]
        return self.speech.encode_batch(audios)

    def mark(self, mark: str) -> list[int]:
        """The id of a mark, or of none. Raises ``UsageError`` for one that the tokenizer lacks."""
        marks = self.text.space.specials
        if mark and mark not in marks:
            raise UsageError(
                f"The tokenizer has no id for the mark '{mark}'; known are {', '.join(marks)}.",
                "wishbone data tokenize --mark",
                "Add it: --set 'tokenizer.marks=[...]', as the system in training will have it.",
            )
        return [marks[mark]] if mark else []

    def row(
        self, recording: Recording, codes: Tensor, speaker: str, mark: str = ""
    ) -> dict[str, Any]:
        """One row of token data, with a mark in front where one is named."""
        ids = self.text_ids(recording)
        ids = [*self.mark(mark), *ids] if ids else ids
        words = sum(i in self.text.space.word_ends for i in ids)
        ends = recording.ends if len(recording.ends) == words else ()
        return {
            "id": recording.id,
            "text": recording.text,
            "text_ids": ids,
            "codes": codes.flatten().tolist(),
            "word_ends": [min(len(codes), round(end * self.speech.codes.rate)) for end in ends],
            "seconds": len(recording.audio) / recording.sample_rate,
            "speaker": recording.speaker or speaker,
        }


def tokenize(
    sources: Sequence[str | Path],
    out: str | Path,
    system: str,
    overrides: Sequence[str] = (),
    *,
    speaker: str = "",
    exclude: str | Path | None = None,
    mark: str = "",
) -> Report:
    """Token data of ``sources`` into the folder ``out``, one shard for each part.

    ``exclude`` is a file of sentences, one a line, that must not be in it; ``mark`` stands in front
    of every text, such as that of a dialect. Goes on where an earlier call stopped.
    """
    return run_step(
        tokenize_step(sources, out, system, overrides, speaker=speaker, exclude=exclude, mark=mark)
    )


def tokenize_step(
    sources: Sequence[str | Path],
    out: str | Path,
    system: str,
    overrides: Sequence[str] = (),
    *,
    speaker: str = "",
    exclude: str | Path | None = None,
    mark: str = "",
) -> ShardStep:
    """The shards that ``tokenize`` makes, as a step for any number of processes."""
    # every part must load before the first shard, so that a mistake costs nothing
    tokens = _tokens(system, tuple(overrides))
    tokens.mark(mark)
    about = tokens.about
    out = Path(out)
    jobs = [
        (part.name, (part, str(out), system, tuple(overrides), speaker, str(exclude or ""), mark))
        for part in parts(sources)
    ]
    settings = about | {"speaker": speaker, "exclude": _digest(exclude)}
    settings |= {"mark": mark} if mark else {}
    return ShardStep(tokenize_part, jobs, out, settings)


def tokenize_part(
    part: Part,
    out: str,
    system: str,
    overrides: tuple[str, ...],
    speaker: str,
    exclude: str,
    mark: str = "",
) -> ShardReport:
    """Write one part into ``out/<name>.parquet``."""
    tokens = _tokens(system, overrides)
    report = ShardReport(part.name)
    rows: list[dict[str, Any]] = []
    for recordings in _batches(_usable(part, report, _sentences(exclude))):
        with torch_threads(1):
            batch = tokens.codes(recordings)
        for recording, codes in zip(recordings, batch, strict=True):
            row = tokens.row(recording, codes, speaker, mark)
            if reason := _misfit(row) or recording.repeats:
                report.drop(recording.id, recording.text, reason)
                continue
            rows.append(row)
            report.seconds += row["seconds"]
    rows.sort(key=lambda row: row["id"])
    report.kept = len(rows)
    write_tokens(Path(out) / f"{part.name}.parquet", rows, tokens.about)
    return report


def _misfit(row: Mapping[str, Any]) -> str:
    """Return why the text of a row cannot be what its audio says; empty where it can."""
    count, seconds = len(row["text_ids"]), row["seconds"]
    if not count:
        return "nothing to say in the text"
    if not row["codes"]:
        return "too short for a single code"
    if seconds > SLOWEST * count + SPARE:
        return f"longer than its text: {seconds:.1f} s for {count} ids"
    if seconds < FASTEST * count:
        return f"shorter than its text: {seconds:.1f} s for {count} ids"
    return ""


@cache
def _tokens(system: str, overrides: tuple[str, ...]) -> TokenMaker:
    # composed, not resolved: a system without a backbone can make tokens, too
    return TokenMaker(compose(system, overrides))


def _usable(part: Part, report: ShardReport, excluded: frozenset[str]) -> Iterator[Recording]:
    """The recordings that can become tokens; the others go into the report with a reason."""
    for recording in part.recordings():
        if isinstance(recording, WishboneError):
            report.drop(recording.where, recording.do, recording.what)
        elif recording.text.strip() in excluded:
            report.drop(recording.id, recording.text, "excluded sentence")
        elif not len(recording.audio):
            report.drop(recording.id, recording.text, "empty audio")
        elif float(recording.audio.abs().max()) < SILENT:
            report.drop(recording.id, recording.text, "silence")
        else:
            yield recording


def _batches(recordings: Iterator[Recording]) -> Iterator[list[Recording]]:
    """Recordings of similar length together; those of one shard fit into memory."""
    batch: list[Recording] = []
    for recording in sorted(recordings, key=lambda r: len(r.audio) / r.sample_rate):
        longest = len(recording.audio) / recording.sample_rate
        if batch and longest * (len(batch) + 1) > BATCH_SECONDS:
            yield batch
            batch = []
        batch.append(recording)
    if batch:
        yield batch


@cache
def _sentences(path: str) -> frozenset[str]:
    if not path:
        return frozenset()
    return frozenset(line.strip() for line in read_text(path).splitlines())


def _digest(path: str | Path | None) -> str:
    return hashlib.sha256(read_text(path).encode()).hexdigest()[:16] if path else ""
