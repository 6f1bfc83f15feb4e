"""Audio in and out of files, between sample rates, and as spectrograms.

The only file that imports torchaudio, and only inside functions, because a torchaudio that does
not fit its torch must not stop someone who only wants to speak.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.atomic import replacing
from wishbone.core.errors import DataError, MissingExtra, UsageError

FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
"""File ending -> how soundfile names the container and the coding."""


@dataclass(frozen=True)
class Audio:
    """Samples of one channel and their rate."""

    samples: Tensor
    """[S] float32 in -1..1."""
    sample_rate: int
    """Samples per second."""

    @property
    def seconds(self) -> float:
        """How long it sounds."""
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
            self._file = soundfile.SoundFile(
                temporary, "w", self.sample_rate, channels=1, format=container, subtype=coding
            )
            self._pending = pending.pop_all()
        return self

    def write(self, samples: Tensor) -> None:
        """Append samples [S]; what is beyond -1..1 is clipped."""
        # libsndfile's Vorbis encoder overflows its stack on very long blocks
        for part in samples.detach().cpu().float().clamp(-1, 1).split(1 << 16):
            self._file.write(part.numpy())
        self.samples += len(samples)
        if self._live:
            # the header, too: every state of the file is a whole file
            self._file.flush()
            # renames at the first chunk; the open file goes on under its new name
            self._pending.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._pending.__exit__(kind, error, trace)


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """``path`` if audio can be written there; raises ``UsageError`` before any work is done."""
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
    if path.exists() and not overwrite:
        raise UsageError(
            "The file exists already.",
            where=str(path),
            do="Choose another name, or say --force to replace it.",
        )
    return path


def read(path: str | Path) -> Audio:
    """A file of any format that libsndfile knows, its channels averaged to one.

    Raises ``UsageError`` when there is no such file and ``DataError`` when it is no audio, or none
    of finite numbers.
    """
    import soundfile

    if not Path(path).is_file():
        raise UsageError(
            "There is no such audio file.", where=str(path), do="Check the name and the folder."
        )
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"The file cannot be read as audio: {error}",
            where=str(path),
            do="Convert it to WAV, FLAC, OGG or MP3.",
        ) from error
    if not len(samples):
        raise DataError("The file holds no sound.", where=str(path), do="Record it again.")
    mixed = torch.from_numpy(samples).mean(dim=1)
    check_finite(mixed, str(path))
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
    """The same sound at another rate, by windowed sinc interpolation."""
    if audio.sample_rate == sample_rate:
        return audio
    functional = _torchaudio()
    samples = functional.resample(audio.samples, audio.sample_rate, sample_rate)
    return Audio(samples, sample_rate)


def log_mel(audio: Audio, mels: int = 80, window: int = 1024, hop: int = 256) -> Tensor:
    """Natural logarithm of a mel spectrogram [mels, frames], for looking at and comparing.

    Hann window of ``window`` samples every ``hop``, magnitudes, Slaney's mel scale up to half the
    sample rate, floor of 1e-5. The codecs have spectrograms of their own.
    """
    spectrum = torch.stft(
        audio.samples, window, hop, window=torch.hann_window(window), return_complex=True
    ).abs()
    filters = _torchaudio().melscale_fbanks(
        window // 2 + 1, 0.0, audio.sample_rate / 2, mels, audio.sample_rate, "slaney", "slaney"
    )
    return (filters.T @ spectrum).clamp(min=1e-5).log()


def mel_filters(bins: int, sample_rate: int, mels: int, top_hz: float) -> Tensor:
    """Triangles [mels, bins] on Slaney's mel scale, each of area one, in Hz, from 0 to ``top_hz``.

    The scale is linear to 1 kHz and logarithmic above (Slaney's Auditory Toolbox, 1998). Computed
    in double precision: CosyVoice2's networks were trained on librosa's, which are.
    """
    knee, slope, step = 1000.0, 200.0 / 3, math.log(6.4) / 27  # Hz, Hz per mel, per mel
    top = top_hz / slope if top_hz < knee else knee / slope + math.log(top_hz / knee) / step
    mel = torch.linspace(0.0, top, mels + 2, dtype=torch.float64)
    edges = torch.where(
        mel < knee / slope, mel * slope, knee * torch.exp((mel - knee / slope) * step)
    )
    hertz = torch.linspace(0.0, sample_rate / 2, bins, dtype=torch.float64)
    low, middle, high = (edges[i : i + mels, None] for i in range(3))
    triangles = torch.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle))
    return (triangles.clamp(min=0.0) * 2 / (high - low)).float()


def vocoder_mel(samples: Tensor) -> Tensor:
    """24 kHz samples [S] -> [80, S / 480]: what CosyVoice2's flow makes and its vocoder reads.

    HiFi-GAN's form (arXiv:2010.05646): 80 ms Hann windows every 20 ms, frame i centred on sample
    480 i + 240 with the signal mirrored at both ends, magnitudes, 80 mels up to 8 kHz, natural
    logarithm, floor of 1e-5.
    """
    window, hop = 1920, 480
    pad = (window - hop) // 2
    frames = len(samples) // hop
    # mirroring needs more samples than it adds
    samples = F.pad(samples, (0, max(0, pad + 1 - len(samples))))[None, None]
    padded = F.pad(samples, (pad, pad), mode="reflect")[0]
    weights = torch.hann_window(window, device=samples.device)
    spectrum = torch.stft(padded, window, hop, window=weights, center=False, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    filters = mel_filters(window // 2 + 1, 24_000, 80, 8000.0).to(samples.device)
    return (filters @ torch.sqrt(power + 1e-9)).clamp(min=1e-5).log()[0, :, :frames]


def whisper_mel(samples: Tensor, mels: int = 128) -> Tensor:
    """16 kHz samples [S] -> [mels, S / 160]: what Whisper and CosyVoice2's speech tokenizer hear.

    25 ms Hann windows every 10 ms, power, common logarithm, at most 8 below the loudest cell, then
    shifted and scaled to about -1..1 (arXiv:2212.04356, section 2.2).
    """
    window, hop = 400, 160
    frames = len(samples) // hop
    if not frames:
        return samples.new_zeros(mels, 0)
    samples = F.pad(samples, (0, max(0, window // 2 + 1 - len(samples))))
    weights = torch.hann_window(window, device=samples.device)
    spectrum = torch.stft(samples, window, hop, window=weights, return_complex=True)
    power = spectrum[:, :frames].abs().square()
    filters = mel_filters(window // 2 + 1, 16_000, mels, 8000.0).to(samples.device)
    decibels = (filters @ power).clamp(min=1e-10).log10()
    return (torch.maximum(decibels, decibels.max() - 8.0) + 4.0) / 4.0


def kaldi_mel(samples: Tensor, mels: int = 80) -> Tensor:
    """16 kHz samples [S] in -1..1 -> [frames, mels]: Kaldi's log-mel filter bank, no dither.

    25 ms Povey windows every 10 ms, only whole ones, pre-emphasis of 0.97, mels from 20 Hz.
    """
    if len(samples) < 400:
        return samples.new_zeros(0, mels)
    _torchaudio()
    from torchaudio.compliance import kaldi

    return kaldi.fbank(samples[None], num_mel_bins=mels, dither=0.0, sample_frequency=16_000.0)


def _torchaudio() -> ModuleType:
    try:
        from torchaudio import functional
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtra(
            f"torchaudio cannot be imported: {error}",
            where="a change of sample rate or a spectrogram",
            do="Install the torchaudio that belongs to this torch; 'wishbone doctor' shows both.",
        ) from error
    return functional
