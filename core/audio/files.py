"""Audio in and out of files, between sample rates, and as spectrograms.

The only file of core that imports torchaudio, and only inside functions, because a torchaudio that
does not fit its torch must not stop someone who only wants to speak.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from wishbone.core.contract.atomic import replacing
from wishbone.core.contract.errors import DataError, MissingExtra, UsageError

FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
"""File ending -> how soundfile names the container and the coding."""
RATES = (1000, 768_000)
"""Samples per second that a recording may have; anything else is a damaged header."""
BLOCK = 1 << 16
"""Samples that are read at once: a header may promise more than a memory holds."""


@dataclass(frozen=True)
class Audio:
    """Samples of one channel and their rate."""

    samples: Tensor
    """[S] float32 in -1..1."""
    sample_rate: int
    """Samples per second."""

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write a file; its ending chooses WAV, FLAC or OGG. Raises ``UsageError``."""
        with Writer(path, self.sample_rate, overwrite) as writer:
            writer.write(self.samples)
        return writer.path


class Writer:
    """A file that grows chunk by chunk and appears under its name when it is complete.

    Use it as a context: leaving it by an exception leaves no file. With ``live`` it is there from
    the first chunk on, so that a player can follow it, and what was written stays. Raises
    ``UsageError`` for an ending that is not known, a folder that is not there, and a file that
    exists already.
    """

    def __init__(
        self, path: str | Path, sample_rate: int, overwrite: bool = False, live: bool = False
    ) -> None:
        self.path = check_target(path, overwrite)
        self.sample_rate = sample_rate
        self.samples = 0
        self._live = live

    def __enter__(self) -> Writer:
        import soundfile

        container, coding = FORMATS[self.path.suffix.lower()]
        with ExitStack() as pending:
            temporary = pending.enter_context(replacing(self.path))
            with self._system_errors():
                self._file = soundfile.SoundFile(
                    temporary, "w", self.sample_rate, channels=1, format=container, subtype=coding
                )
            self._pending = pending.pop_all()
        return self

    def write(self, samples: Tensor) -> None:
        """Append samples [S], clipped to -1..1."""
        # libsndfile's Vorbis encoder overflows its stack on very long blocks
        with self._system_errors():
            for part in samples.detach().cpu().float().clamp(-1, 1).split(BLOCK):
                self._file.write(part.numpy())
            self.samples += len(samples)
            if self._live:
                # the header, too: every state of the file is a whole file
                self._file.flush()
        if self._live:
            # renames at the first chunk; the open file goes on under its new name
            self._pending.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._system_errors():
                self._file.close()
        except OSError as failure:
            self._pending.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._pending.__exit__(kind, error, trace)

    @contextmanager
    def _system_errors(self) -> Iterator[None]:
        """Turn what soundfile raises on a full disk, which names no cause, into ``OSError``."""
        import soundfile

        try:
            yield
        except (soundfile.LibsndfileError, AssertionError) as error:
            free = shutil.disk_usage(self.path.parent).free
            number = errno.EIO if free > 1 << 20 else errno.ENOSPC
            raise OSError(number, os.strerror(number), str(self.path)) from error


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Return ``path`` if audio can be written there; ``UsageError`` before any work is done."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"'{path.suffix}' is not an ending of an audio file that can be written.",
            where=str(path),
            do=f"Use {', '.join(FORMATS)}.",
        )
    if not path.parent.is_dir():
        raise UsageError(
            "The folder does not exist.", where=str(path.parent), do="Make it, or choose another."
        )
    if path.is_dir():
        raise UsageError("This is a folder.", where=str(path), do="Name a file.")
    if path.exists() and not overwrite:
        raise UsageError(
            "The file exists already.",
            where=str(path),
            do="Choose another name, or say --force to replace it.",
        )
    return path


def read(path: str | Path) -> Audio:
    """Read a file of any format that libsndfile knows, its channels averaged to one.

    Raises ``UsageError`` when there is no such file and ``DataError`` when it is no audio, or none
    of finite numbers.
    """
    if not Path(path).is_file():
        raise UsageError(
            "There is no such audio file.", where=str(path), do="Check the name and the folder."
        )
    with Path(path).open("rb") as file:
        audio = decode(file, str(path))
    if not len(audio.samples):
        raise DataError("The file holds no sound.", where=str(path), do="Record it again.")
    return audio


def decode(file: BinaryIO | bytes, where: str) -> Audio:
    """Read audio, of any length, from an open file or from memory; raises ``DataError``."""
    import soundfile

    blocks = []
    try:
        opened = io.BytesIO(file) if isinstance(file, bytes) else file
        with soundfile.SoundFile(opened) as sound:
            rate = sound.samplerate
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(torch.from_numpy(block).mean(dim=1))  # [S, channels] -> [S]
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"The file cannot be read as audio: {error}",
            where=where,
            do="Convert it to WAV, FLAC, OGG or MP3.",
        ) from error
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(
            f"The file says {rate} samples a second, which no recording has.",
            where,
            "Export it again; its header is damaged.",
        )
    mixed = torch.cat(blocks) if blocks else torch.zeros(0)  # [S]
    check_finite(mixed, where)
    return Audio(mixed, rate)


def check_finite(samples: Tensor, where: str) -> None:
    """Raise ``DataError`` where a sample is infinite or not a number."""
    if not torch.isfinite(samples).all():
        raise DataError(
            "The audio holds samples that are infinite or not numbers.",
            where,
            "Export it again, for example as 16-bit WAV.",
        )


def resample(audio: Audio, sample_rate: int) -> Audio:
    """Convert to another sample rate by windowed sinc interpolation."""
    if audio.sample_rate == sample_rate:
        return audio
    functional = require_torchaudio()
    samples = functional.resample(audio.samples, audio.sample_rate, sample_rate)
    return Audio(samples, sample_rate)


def log_mel(audio: Audio, mels: int = 80, window: int = 1024, hop: int = 256) -> Tensor:
    """Compute the logarithm of a mel spectrogram [mels, frames], to look at and compare.

    Hann window of ``window`` samples every ``hop``, magnitudes, Slaney's mel scale up to half the
    sample rate, floor of 1e-5. The codecs have spectrograms of their own.
    """
    spectrum = torch.stft(
        audio.samples, window, hop, window=torch.hann_window(window), return_complex=True
    ).abs()  # [bins, frames]
    bins = window // 2 + 1
    filters = mel_filters(bins, audio.sample_rate, mels, audio.sample_rate / 2)  # [mels, bins]
    return (filters @ spectrum).clamp(min=1e-5).log()  # [mels, frames]


def mel_filters(
    bins: int, sample_rate: int, mels: int, top_hz: float, scale: str = "slaney"
) -> Tensor:
    """Make triangles [mels, bins] from 0 Hz to ``top_hz``; ``MissingExtra`` without torchaudio.

    On the scale "slaney" (linear to 1 kHz, logarithmic above) each has an area of one in Hz, as
    librosa's have; on "htk" each has a peak of one. Bins are those of a Fourier transform of
    ``2 * (bins - 1)`` samples.
    """
    norm = "slaney" if scale == "slaney" else None
    return require_torchaudio().melscale_fbanks(bins, 0.0, top_hz, mels, sample_rate, norm, scale).T


def require_torchaudio() -> ModuleType:
    """Return ``torchaudio.functional``; raises ``MissingExtra`` where it cannot be imported."""
    try:
        from torchaudio import functional
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtra(
            f"torchaudio cannot be imported: {error}",
            where="a change of sample rate or a spectrogram",
            do="Install the torchaudio that belongs to this torch; 'wishbone doctor' shows both.",
        ) from error
    return functional
