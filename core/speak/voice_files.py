"""Files of voices: the ones that come with Wishbone, and the one that a name or a path means."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from wishbone.core.contract.errors import UnknownName, UsageError, did_you_mean
from wishbone.core.registry.shipped import shipped

RECORDINGS = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64")
"""Endings by which a requested voice is a recording, which needs its transcript."""
UNREADABLE = (".m4a", ".m4b", ".aac", ".mp4", ".mov", ".webm", ".mkv", ".wma", ".amr", ".3gp")
"""Endings of recordings that nothing here can read."""


def bundled() -> list[str]:
    """Names of the voices that come with Wishbone."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def locate(name_or_path: str | Path, others: Iterable[str] = ()) -> Path:
    """Find the YAML file of a bundled voice, a plug-in's (``VENDOR/NAME``), or one by its path.

    ``others`` are names for the error to list. Raises ``UnknownName``, and ``UsageError`` for a
    recording.
    """
    path = Path(name_or_path)
    check_readable(path)
    if path.suffix.lower() in RECORDINGS:
        raise UsageError(
            "This is a recording, and a voice is a recording with its transcript.",
            str(path),
            "Make one with Voice.from_audio(system, recording, transcript), or say --transcript.",
        )
    if path.suffix == ".safetensors":
        path = path.with_suffix(".yaml")
    if path.is_file():
        return path
    bundled_file = _folder() / f"{name_or_path}.yaml"
    if bundled_file.is_file():
        return bundled_file
    brought = shipped("voices")
    if str(name_or_path) in brought:
        return brought[str(name_or_path)]
    names = [*bundled(), *brought, *others]
    raise UnknownName(
        f"There is no voice '{name_or_path}'.",
        "the voice asked for",
        f"{did_you_mean(str(name_or_path), names)} Voices:"
        f" {', '.join(names) or 'none'}; or give a .wav with its transcript.".strip(),
    )


def check_readable(path: Path) -> None:
    """Raise ``UsageError`` for a recording of a format that has to be converted first."""
    if path.suffix.lower() in UNREADABLE:
        raise UsageError(
            f"A recording in {path.suffix.lower()} cannot be read.",
            str(path),
            f"Convert it first: ffmpeg -i '{path.name}' '{path.stem}.wav'.",
        )


def _folder() -> Path:
    return Path(str(files("wishbone.configs"))) / "voices"
