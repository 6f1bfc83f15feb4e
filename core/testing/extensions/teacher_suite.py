"""Suite of teachers. It takes as long as the teacher needs for two short phrases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wishbone.core.contract.errors import WishboneError
from wishbone.core.contract.extensions.teacher import Spoken, Teacher, Word
from wishbone.core.testing.common import Check, Skipped, require

WORDS = (
    Word("hello", ("h", "\u0259", "l", "\u02c8o\u028a"), " "),
    Word("there", ("\u00f0", "\u02c8\u025b", "\u0279"), "."),
)
LATE = 0.05
"""Seconds that an end may lie behind the end of the audio: one step of a duration predictor."""


def _build(cls: Any, config: Any) -> Any:
    require(
        issubclass(cls, Teacher),
        "the class is no wishbone.core.contract.extensions.teacher.Teacher",
    )
    return cls(config)


def speaks(cls: Any, config: Any, module: str | None) -> str:
    """Words become audio, and where ends are told there is one for each word, in order."""
    try:
        spoken = _build(cls, config).speak(WORDS)
    except WishboneError as error:
        raise Skipped(str(error)) from error
    seconds = _check_audio(spoken)
    _check_ends("word_ends", spoken.word_ends, len(WORDS), seconds)
    phonemes = sum(len(word.phonemes) for word in WORDS)
    _check_ends("phoneme_ends", spoken.phoneme_ends, phonemes, seconds)
    return f"{seconds:.2f} s"


def reads(cls: Any, config: Any, module: str | None) -> str:
    """Text becomes audio by its own front end."""
    try:
        spoken = _build(cls, config).read("Hello there.")
    except WishboneError as error:
        raise Skipped(str(error)) from error
    return f"{_check_audio(spoken):.2f} s"


def _check_audio(spoken: Any) -> float:
    """Raise ``Violation`` unless there is sound; return its seconds."""
    require(isinstance(spoken, Spoken), f"a {type(spoken).__name__} is returned, not a Spoken")
    audio, rate = spoken.audio, spoken.sample_rate
    require(isinstance(audio, torch.Tensor) and audio.ndim == 1, "the audio is no tensor [S]")
    require(audio.is_floating_point(), f"the audio is {audio.dtype}, not floats in -1..1")
    require(isinstance(rate, int) and rate > 0, f"sample_rate is {rate!r}")
    require(audio.numel() > 0, "there is no audio")
    require(bool(audio.isfinite().all()), "a sample is not finite")
    peak = audio.abs().max().item()
    require(peak <= 1, f"samples reach {peak:.2f}, beyond 1")
    require(peak > 1e-3, f"nothing is to be heard: the loudest sample is {peak:.1e}")
    return audio.numel() / rate


def _check_ends(name: str, ends: Sequence[float], count: int, seconds: float) -> None:
    if not len(ends):
        return
    require(len(ends) == count, f"{name} has {len(ends)} numbers for {count}")
    pairs = zip(ends, ends[1:], strict=False)
    require(all(a <= b for a, b in pairs), f"{name} does not rise: {list(ends)}")
    fine = ends[0] > 0 and ends[-1] <= seconds + LATE
    require(fine, f"{name} goes from {ends[0]:.2f} to {ends[-1]:.2f} s in {seconds:.2f} s of audio")


CHECKS = (
    Check("speaks", "Words become audio, with ends in order.", speaks),
    Check("reads", "Text becomes audio.", reads),
)
