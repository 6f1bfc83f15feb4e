"""Recordings of a voice: speech in them, their level, and the length of their transcript."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from wishbone.core.audio.files import Audio
from wishbone.core.audio.pitch import track
from wishbone.core.contract.errors import DataError, UsageError

FRAME = 0.04
"""Seconds of a frame."""
SILENT = 5e-4
"""A recording with no sample above this, -66 dB of full scale, is silence."""
VOICED = 0.05
"""Least share of frames with a pitch, in a recording that keeps one level; noise has 0.01."""
CHANGES = 8.0
"""Decibels by which the level of speech, whispered too, spreads from frame to frame: half of
its frames are as far apart. A steady noise has 1."""
LOUD = 0.1
"""Frames above this share of the loudest one's level are speech, the others pauses."""

FAR = 2.2
"""Times that a recording may be longer or shorter than usual for its transcript: the bundled
voices speak 1.4 to 2.1 codes an id, where 1.6 are usual."""


def check_length(audio: Audio, most: float, where: str) -> None:
    """Raise ``UsageError`` for a recording of more than ``most`` seconds."""
    if audio.seconds > most:
        raise UsageError(
            f"The recording is {audio.seconds:.0f} seconds long, and a voice takes {most:.0f}"
            " at most.",
            where,
            "Cut it to one or two sentences, and the transcript with it.",
        )


def check_speech(audio: Audio, where: str) -> None:
    """Raise ``DataError`` for silence, and for noise that neither has a pitch nor comes and goes.

    It keeps out what is no voice at all; it does not tell speech from music.
    """
    samples = _centred(audio.samples)  # [S]
    if not len(samples) or float(samples.abs().max()) < SILENT:
        raise _no_speech("it is silent", where)
    levels = _levels(samples, audio.sample_rate)  # [T]
    low, high = np.quantile(20 * np.log10(levels.numpy() + 1e-6), (0.25, 0.75))
    if high - low >= CHANGES:
        return
    _, voiced = track(samples.numpy(), audio.sample_rate, round(FRAME / 4 * audio.sample_rate))
    if voiced.mean() < VOICED:
        raise _no_speech("it is one steady noise", where)


def at_level(audio: Audio, level: float | None) -> Audio:
    """The recording without its mean, its loud frames at ``level``; as it is for None.

    Whatever it is multiplied by before, and whatever is added to all of it, the result is the same.
    """
    if level is None or not len(audio.samples):
        return audio
    samples = _centred(audio.samples)  # [S]
    levels = _levels(samples, audio.sample_rate)  # [T]
    loud = levels[levels >= LOUD * levels.max()]  # [T]
    now = float(loud.square().mean().sqrt())
    return replace(audio, samples=samples * (level / now) if now > 0 else samples)


def warn_of_transcript(usual: float, codes: int, ids: int, where: str) -> None:
    """Warn of a transcript of so many ids that is far from as long as what is said.

    ``usual`` is the number of codes of an id, 0 where it is not known.
    """
    if not ids or not usual or usual / FAR < codes / ids < usual * FAR:
        return
    longer = codes / ids > usual
    warnings.warn(
        f"{where}: the transcript hardly fits the recording, which has {codes} codes for its"
        f" {ids} ids, {codes / ids:.1f} each where {usual:g} are usual. Words will be"
        f" {'said wrongly' if longer else 'left out'}: write down every word that is said"
        f"{', and cut silence off' if longer else ' and no other'}.",
        stacklevel=3,
    )


def _centred(samples: Tensor) -> Tensor:
    """samples [S] without their mean."""
    wide = samples.double()  # [S]
    return (wide - wide.mean()).float()  # [S]


def _levels(samples: Tensor, rate: int) -> Tensor:
    """Root mean square [T] of each frame of samples [S]; of a short recording the whole."""
    size = min(max(round(FRAME * rate), 1), len(samples))
    frames = samples[: len(samples) // size * size].view(-1, size)  # [T, size]
    return torch.linalg.vector_norm(frames, dim=1) / size**0.5  # [T]


def _no_speech(why: str, where: str) -> DataError:
    return DataError(
        f"There is no speech in the recording: {why}.",
        where,
        "Record a sentence or two, and check the microphone.",
    )
