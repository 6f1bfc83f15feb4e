"""Files of voices: the ones that come with Wishbone, and the one that a name or a path means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wishbone.core.config.compose import could_be_file
from wishbone.core.contract.errors import CheckpointError, UnknownName, UsageError, did_you_mean
from wishbone.core.registry.shipped import shipped
from wishbone.core.weights.tensor_files import read_tensors, require_plausible

RECORDINGS = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64")
"""Endings by which a requested voice is a recording, which needs its transcript."""
UNREADABLE = (".m4a", ".m4b", ".aac", ".mp4", ".mov", ".webm", ".mkv", ".wma", ".amr", ".3gp")
"""Endings of recordings that nothing here can read."""

AXES = {"text": (1,), "speech": (1, 2), "word_ends": (1,), "global_codes": (1,), "speaker": (1,)}
"""Tensor -> numbers of axes that it may have; no codes at all have one axis alone."""
NAMED = ("heard.", "state.", "start.")
"""Beginnings of the names of all other tensors."""


def bundled() -> list[str]:
    """Names of the voices that come with Wishbone."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def locate(name_or_path: str | Path, others: Iterable[str] = ()) -> Path:
    """Find the YAML file of a bundled voice, a plug-in's (``VENDOR/NAME``), or one by its path.

    ``others`` are names for the error to list. Raises ``UnknownName``, and ``UsageError`` for a
    recording.
    """
    path = Path(name_or_path)
    if not could_be_file(str(name_or_path)):
        raise UnknownName(
            f"'{str(name_or_path)[:60]}...' cannot be the name of a voice.",
            "the voice asked for",
            f"Voices: {', '.join([*bundled(), *others])}; or give a .wav with its transcript.",
        )
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


def read_header(values: Mapping[str, Any], keys: Iterable[str], path: Path) -> dict[str, str]:
    """Return the text under each key of a voice's YAML file; raises ``CheckpointError``."""
    unknown = sorted(set(values) - set(keys))
    if unknown:
        raise CheckpointError(
            f"The voice has keys that mean nothing: {', '.join(unknown)}.",
            str(path),
            f"Keys are {', '.join(keys)}.",
        )
    for key, value in values.items():
        if isinstance(value, list | dict):
            _refuse(f"'{key}' is not a text", path)
    return {key: str(value) for key, value in values.items() if value is not None}


def read_voice(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a voice, checked as far as a file can be without its system.

    Raises ``CheckpointError`` naming the tensor that is missing, of another shape or type, has a
    negative code, or a number that is none.
    """
    tensors = read_tensors(path)
    for name in ("text", "speech", "word_ends"):
        if name not in tensors:
            _refuse(f"it has no tensor '{name}'", path)
    for name, tensor in sorted(tensors.items()):
        if name not in AXES and not name.startswith(NAMED):
            _refuse(f"it has a tensor '{name}', which means nothing", path)
        if name in AXES and tensor.ndim not in AXES[name]:
            _refuse(f"'{name}' has {tensor.ndim} axes", path)
        if name in AXES and name != "speaker":
            _check_integers(name, tensor, path)
    speech, ends = tensors["speech"], tensors["word_ends"]
    if speech.ndim == 1 and len(speech) or speech.ndim == 2 and not speech.shape[1]:
        _refuse("'speech' is not [frames, codebooks]", path)
    if len(ends) and (int(ends.max()) > len(speech) or bool((ends.diff() < 0).any())):
        _refuse("'word_ends' do not rise from 0 to the number of its frames", path)
    require_plausible(tensors, str(path))
    return tensors


def _check_integers(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        _refuse(f"'{name}' holds {tensor.dtype} and not whole numbers", path)
    if tensor.numel() and int(tensor.min()) < 0:
        _refuse(f"'{name}' holds {int(tensor.min())}, which is no id and no code", path)


def _refuse(why: str, path: Path) -> None:
    raise CheckpointError(
        f"The voice cannot be used: {why}.", str(path), "Make the voice again from its recording."
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
