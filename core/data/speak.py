"""Sentences to audio data: a front end makes words of them, and a teacher speaks the words."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from wishbone.core.audio import files as sound
from wishbone.core.config.compose import Config
from wishbone.core.config.schema import parse_slot
from wishbone.core.contract.errors import ConfigError, DataError, WishboneError
from wishbone.core.contract.teacher import Spoken, Teacher, Word
from wishbone.core.data.shards import Report, ShardReport, run_shards
from wishbone.core.data.tokens import arrow, write_table
from wishbone.core.registry.loader import blame

SAMPLE_RATE = 24_000
"""Samples per second of audio data, the rate of the bundled codec."""
SHORTEST, LONGEST = 0.6, 11.0
"""Seconds. Shorter is a slip of the front end; longer makes a batch of padding."""

Line = tuple[int, str, int]
"""Number of a line, its text, and the line that says the same before it, or -1."""


def speak(
    sentences: str | Path,
    out: str | Path,
    *,
    teacher: str = "piper",
    tokenizer: str = "phonemes",
    overrides: Sequence[str] = (),
    start: int = 0,
    count: int = 0,
    shard: int = 250,
    workers: int = 1,
    speaker: str = "",
) -> Report:
    """Audio data of the lines ``start .. start + count`` into the folder ``out``.

    Goes on where an earlier call stopped, and may be called again with more lines: a
    shard that ``count`` had cut short is then made again. Raises ``DataError`` when ``out`` was
    begun with other settings, or when a line would be in two shards. ``speaker`` is the name of
    the voice in every row.
    """
    lines = _read_lines(sentences)
    names = (teacher, tokenizer, tuple(overrides))
    settings = {
        "teacher": teacher,
        "tokenizer": tokenizer,
        "fields": asdict(_parts(*names)[1].config),
        "sentences": hashlib.sha256(Path(sentences).read_bytes()).hexdigest()[:16],
        "shard": shard,
        "sample_rate": SAMPLE_RATE,
        # folders begun before voices had names stay as they are
        **({"speaker": speaker} if speaker else {}),
    }
    end = min(len(lines), start + count) if count else len(lines)
    ranges = {
        f"{first:06d}": range(first, min(first + shard, end)) for first in range(start, end, shard)
    }
    jobs = [
        (name, (lines[each.start : each.stop], str(out), names, speaker))
        for name, each in ranges.items()
    ]
    return run_shards(speak_lines, jobs, Path(out), settings, workers, ranges)


def speak_lines(
    lines: Sequence[Line], out: str, names: tuple[str, str, tuple[str, ...]], speaker: str = ""
) -> ShardReport:
    """One shard into ``out``, named by the number of its first line."""
    if torch.multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    front_end, teacher = _parts(*names)
    report = ShardReport(f"{lines[0][0]:06d}")
    rows = []
    for number, text, same in lines:
        identity = f"s{number:06d}"
        try:
            row = _row(identity, text, same, front_end, teacher)
        except DataError as error:
            report.drop(identity, text, error.what)
            continue
        rows.append(row | {"speaker": speaker})
        report.seconds += row["seconds"]
    report.kept = len(rows)
    write_audio(Path(out) / f"{report.name}.parquet", rows)
    return report


def _row(identity: str, text: str, same: int, front_end: Any, teacher: Teacher) -> dict[str, Any]:
    """One row of audio data; ``DataError`` says why a sentence is left out."""
    if not text.strip():
        raise DataError("empty line")
    if same >= 0:
        raise DataError(f"same sentence as an earlier line: {same}")
    words: list[Word] = front_end.words(text)
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
    check_audio(audio)
    return audio_row(identity, text, words, spoken, audio)


def _cause(error: Exception) -> str:
    broken = blame(error)
    return f"{broken.what} ({broken.where})" if broken else f"{type(error).__name__}: {error}"


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


def check_audio(audio: sound.Audio) -> None:
    """``DataError`` for audio that is no use: not finite, too short, too long or silent."""
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
    """Rows of audio data to one Parquet file."""
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
def _parts(teacher: str, tokenizer: str, overrides: tuple[str, ...]) -> tuple[Any, Any]:
    """The front end and the teacher, made once in a process."""
    from omegaconf import OmegaConf

    fields = dict(OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))))
    config = Config({"teacher": {"name": teacher, **fields}, "tokenizer": {"name": tokenizer}})
    front_end = parse_slot(config, "tokenizer").build()
    if front_end.words("") is None:
        raise ConfigError(
            f"The tokenizer '{tokenizer}' cannot say how words are spoken (it has no 'words').",
            "the front end of a teacher",
            "Use --tokenizer phonemes.",
        )
    return front_end, parse_slot(config, "teacher").build()


def _read_lines(path: str | Path) -> list[Line]:
    try:
        texts = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The sentences cannot be read: {error}.", str(path), "Give a text file in UTF-8."
        ) from error
    first: dict[str, int] = {}
    lines = []
    for number, text in enumerate(texts):
        before = first.setdefault(" ".join(text.lower().split()), number)
        lines.append((number, text, before if before != number else -1))
    return lines
