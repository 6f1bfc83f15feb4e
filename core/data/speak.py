"""Sentences to audio data: a front end makes words of them, and a teacher speaks the words."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch

from wishbone.core.audio import files as sound
from wishbone.core.config.compose import Config
from wishbone.core.config.schema import parse_slot
from wishbone.core.config.text_files import read_text
from wishbone.core.contract.errors import ConfigError, DataError, WishboneError
from wishbone.core.contract.extensions.teacher import Spoken, Teacher, Word
from wishbone.core.contract.text import Tokenizer
from wishbone.core.data.parquet import arrow
from wishbone.core.data.shards import Report, ShardReport, ShardStep, run_step
from wishbone.core.data.tokens import write_table
from wishbone.core.registry.loader import blame

SAMPLE_RATE = 24_000
"""Samples per second of audio data, the rate of the bundled codec."""
SHORTEST, LONGEST = 0.6, 11.0
"""Seconds. Shorter is a slip of the front end; longer makes a batch of padding."""

Line = tuple[int, str, int]
"""Number of a line, its text, and the number of an earlier line with the same text, or -1."""


def speak(
    sentences: str | Path,
    out: str | Path,
    *,
    teacher: str,
    tokenizer: str,
    overrides: Sequence[str] = (),
    start: int = 0,
    count: int = 0,
    shard: int = 250,
    speaker: str = "",
) -> Report:
    """Audio data of the lines ``start .. start + count`` into the folder ``out``.

    Goes on where an earlier call stopped, and may be called again with more lines: a shard that
    ``count`` had cut short is then made again. Raises ``DataError`` when ``out`` was begun with
    other settings, or when a line would be in two shards. ``speaker`` is the name of the voice in
    every row.
    """
    span = {"start": start, "count": count, "shard": shard}
    return run_step(
        speak_step(sentences, out, teacher, tokenizer, overrides, **span, speaker=speaker)
    )


def speak_step(
    sentences: str | Path,
    out: str | Path,
    teacher: str,
    tokenizer: str,
    overrides: Sequence[str] = (),
    *,
    start: int = 0,
    count: int = 0,
    shard: int = 250,
    speaker: str = "",
) -> ShardStep:
    """The shards that ``speak`` makes, as a step for any number of processes."""
    lines = _read_lines(str(sentences))
    names = (teacher, tokenizer, tuple(overrides))
    settings = {
        "teacher": teacher,
        "tokenizer": tokenizer,
        "fields": asdict(_parts(*names)[1].config),
        "sentences": hashlib.sha256(Path(sentences).read_bytes()).hexdigest()[:16],
        "shard": shard,
        "sample_rate": SAMPLE_RATE,
        # a folder begun before voices had names has no such setting and can still be continued
        **({"speaker": speaker} if speaker else {}),
    }
    end = min(len(lines), start + count) if count else len(lines)
    ranges = {
        f"{first:06d}": range(first, min(first + shard, end)) for first in range(start, end, shard)
    }
    jobs = [
        (name, (str(sentences), span.start, span.stop, str(out), names, speaker))
        for name, span in ranges.items()
    ]
    return ShardStep(speak_lines, jobs, Path(out), settings, ranges)


def speak_lines(
    sentences: str,
    start: int,
    stop: int,
    out: str,
    names: tuple[str, str, tuple[str, ...]],
    speaker: str = "",
) -> ShardReport:
    """Write the shard of the lines ``start .. stop`` into ``out``, named by the first."""
    front_end, teacher = _parts(*names)
    report = ShardReport(f"{start:06d}")
    rows = []
    for number, text, earlier in _read_lines(sentences)[start:stop]:
        identity = f"s{number:06d}"
        try:
            row = _row(identity, text, earlier, front_end, teacher)
        except DataError as error:
            report.drop(identity, text, error.what)
            continue
        rows.append(row | {"speaker": speaker})
        report.seconds += row["seconds"]
    report.kept = len(rows)
    write_audio(Path(out) / f"{report.name}.parquet", rows)
    return report


def _row(
    identity: str, text: str, earlier: int, front_end: Tokenizer, teacher: Teacher
) -> dict[str, Any]:
    """One row of audio data. Raises ``DataError`` with the reason to leave a sentence out."""
    if not text.strip():
        raise DataError("empty line")
    if earlier >= 0:
        raise DataError(f"same sentence as an earlier line: {earlier}")
    words = front_end.words(text)
    if not words:
        raise DataError("nothing to say in the text")
    try:
        spoken = teacher.speak(words)
    except DataError as error:
        raise DataError(f"the teacher cannot say it: {error.what}") from error
    except WishboneError:
        raise
    except Exception as error:
        # the sentence is left out, and the report names the plug-in whose code it was
        raise DataError(f"the teacher failed: {_cause(error)}") from error
    audio = sound.resample(sound.Audio(spoken.audio, spoken.sample_rate), SAMPLE_RATE)
    require_usable(audio)
    return audio_row(identity, text, words, spoken, audio)


def _cause(error: Exception) -> str:
    blamed = blame(error)
    return f"{blamed.what} ({blamed.where})" if blamed else f"{type(error).__name__}: {error}"


def audio_row(
    identity: str, text: str, words: Sequence[Word], spoken: Spoken, audio: sound.Audio
) -> dict[str, Any]:
    """One row of audio data, without the speaker; ``audio`` has ``SAMPLE_RATE``."""
    return {
        "id": identity,
        "text": text,
        "words": [word.spelling for word in words],
        "phonemes": [" ".join(word.phonemes) for word in words],
        "separators": [word.separator for word in words],
        **_ends(spoken),
        "seconds": audio.seconds,
        "audio": _flac(audio),
    }


def _ends(spoken: Spoken) -> dict[str, list[float]]:
    return {"ends": list(spoken.word_ends), "phoneme_ends": list(spoken.phoneme_ends)}


def require_usable(audio: sound.Audio) -> None:
    """Raise ``DataError`` for audio that is of no use: not finite, too short, too long, silent."""
    if not torch.isfinite(audio.samples).all():
        raise DataError("the audio is not finite")
    if audio.seconds < SHORTEST:
        raise DataError(f"shorter than {SHORTEST} s: {audio.seconds:.2f} s")
    if audio.seconds > LONGEST:
        raise DataError(f"longer than {LONGEST} s: {audio.seconds:.2f} s")
    if float(audio.samples.abs().max()) < 0.01:
        raise DataError("silence")


def _flac(audio: sound.Audio) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    samples = audio.samples.clamp(-1, 1).numpy()
    soundfile.write(buffer, samples, audio.sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write_audio(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of audio data to one Parquet file."""
    pyarrow = arrow()
    strings, numbers = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.float64())
    schema = pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("text", pyarrow.string()),
            ("words", strings),
            ("phonemes", strings),
            ("separators", strings),
            ("ends", numbers),
            ("phoneme_ends", numbers),
            ("seconds", pyarrow.float64()),
            ("speaker", pyarrow.string()),
            ("audio", pyarrow.binary()),
        ]
    )
    write_table(path, pyarrow.Table.from_pylist(rows, schema=schema))


@cache
def _parts(teacher: str, tokenizer: str, overrides: tuple[str, ...]) -> tuple[Tokenizer, Teacher]:
    """The front end and the teacher, made once in a process."""
    from omegaconf import OmegaConf

    fields = dict(OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))))
    config = Config({"teacher": {"name": teacher, **fields}})
    return build_front_end(tokenizer), parse_slot(config, "teacher").build()


def build_front_end(name: str) -> Tokenizer:
    """The tokenizer ``name``. Raises ``ConfigError`` for one that knows no pronunciations."""
    front_end = parse_slot({"tokenizer": {"name": name}}, "tokenizer").build()
    if front_end.words("") is None:
        raise ConfigError(
            f"The tokenizer '{name}' does not know how words are spoken (its 'words' is None).",
            "--tokenizer",
            "Leave --tokenizer out, or name one that 'wishbone data speak' can use.",
        )
    return front_end


def _read_lines(path: str) -> list[Line]:
    """The lines of a file, read once as long as it stays the same."""
    about = Path(path).stat() if Path(path).is_file() else None
    return _lines(path, about and (about.st_mtime_ns, about.st_size))


@lru_cache(1)
def _lines(path: str, _: object) -> list[Line]:
    texts = read_text(path).splitlines()
    first: dict[str, int] = {}
    lines = []
    for number, text in enumerate(texts):
        earlier = first.setdefault(" ".join(text.lower().split()), number)
        lines.append((number, text, earlier if earlier != number else -1))
    return lines
