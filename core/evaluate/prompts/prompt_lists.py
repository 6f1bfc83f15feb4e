"""Files of prompts: plain lines, lines with their kinds, and lists of the form of seed-tts-eval.

- ``.tsv``: ``KIND,KIND<TAB>SENTENCE``, such as ``configs/ab/prompts-en-kinds.tsv``;
- ``.lst``: ``NAME|TRANSCRIPT|RECORDING|SENTENCE`` with or without a fifth field, where a voice is
  taken from the recording, or ``NAME|SENTENCE``, or ``NAME|SENTENCE|RECORDING`` (the benchmark of
  Seed-TTS, Anastassiou et al. 2024, its script ``get_wav_res_ref_text.py``);
- anything else: a sentence a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wishbone.core.config.compose import bundled
from wishbone.core.contract.errors import ConfigError, DataError, did_you_mean
from wishbone.core.evaluate.measure.clips import read_lines
from wishbone.core.evaluate.result import Prompt
from wishbone.core.registry.shipped import shipped_prompts
from wishbone.core.speak.voice import Voice
from wishbone.core.system.system import System


def find_prompts(name: str | Path, folder: Path = Path(), place: str = "the prompts") -> Path:
    """Find a file of prompts: below ``folder``, a bundled one, or a plug-in's ``VENDOR/FILE``.

    Raises ``ConfigError`` at ``place`` for a name that is none of them.
    """
    for path in (folder / name, bundled() / "ab" / name, Path(name)):
        if path.exists():
            return path
    brought = shipped_prompts()
    if str(name) in brought:
        return brought[str(name)]
    names = [*(path.name for path in (bundled() / "ab").glob("prompts*.*")), *brought]
    raise ConfigError(
        f"There is no '{name}'.",
        place,
        did_you_mean(str(name), names) or f"Give a path, or one of: {', '.join(sorted(names))}.",
    )


def read_prompts(path: Path, limit: int | None = None) -> list[Prompt]:
    """Read the first ``limit`` prompts of a file, or all; their keys are their lines' numbers.

    Raises ``UsageError`` for a file that cannot be read, ``DataError`` for a line of another form
    and for a file without any.
    """
    make = {".tsv": _tagged, ".lst": _listed}.get(path.suffix, _plain)
    lines = read_lines(path)
    if not lines:
        raise DataError("There is no sentence in it.", str(path), "Write one on each line.")
    return [make(f"{i:03d}", line, path) for i, line in enumerate(lines[:limit])]


def voice_of(system: System, prompt: Prompt, voice: str | None) -> Voice | str | None:
    """The voice that says a prompt: its own, ``voice``, or that of the recording in its list.

    Raises what ``Voice.from_audio`` raises for a recording that is missing or too long.
    """
    voice = prompt.voice or voice
    if voice or not prompt.recording:
        return voice
    return Voice.from_audio(system, prompt.recording, prompt.transcript or "")


def in_voices(
    prompts: Sequence[Prompt], voices: Sequence[str], place: str = "the voices"
) -> list[Prompt]:
    """Every prompt in every voice: all prompts in the first voice, then all in the second.

    A voice is a kind of prompt, too, so that results by kind show it. Raises ``ConfigError`` at
    ``place`` where there are fewer than two different ones.
    """
    if len({Path(voice).stem for voice in voices}) < max(2, len(voices)):
        raise ConfigError(
            f"'voices' is {', '.join(voices)}.",
            place,
            "Name two or more different ones; for a single one write 'voice: NAME'.",
        )
    return [
        replace(
            prompt,
            key=f"{prompt.key}-{re.sub(r'[^A-Za-z0-9_]', '_', Path(voice).stem)}",
            tags=(*(prompt.tags or ()), f"voice {voice}"),
            voice=voice,
        )
        for voice in voices
        for prompt in prompts
    ]


def _plain(key: str, line: str, path: Path) -> Prompt:
    return Prompt(key, line)


def _tagged(key: str, line: str, path: Path) -> Prompt:
    tags, tab, text = line.partition("\t")
    if not tab or not text.strip():
        raise _wrong(key, line, path, "KIND,KIND<TAB>SENTENCE")
    return Prompt(key, text.strip(), tags=tuple(tag.strip() for tag in tags.split(",")))


def _listed(key: str, line: str, path: Path) -> Prompt:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) in (4, 5):
        _, transcript, recording, text = fields[:4]
        source = str(path.parent / recording)
        return Prompt(key, text, recording=source, transcript=transcript, name=fields[0])
    if len(fields) in (2, 3):
        # without its transcript, a recording makes no voice
        return Prompt(key, fields[1], name=fields[0])
    raise _wrong(key, line, path, "NAME|TRANSCRIPT|RECORDING|SENTENCE")


def _wrong(key: str, line: str, path: Path, form: str) -> DataError:
    return DataError(
        f"Line {int(key) + 1} is not of the form {form}: '{line[:60]}'.",
        str(path),
        "Correct the line, or name the file .txt for a sentence a line.",
    )
