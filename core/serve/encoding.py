"""Formats of the answers: 16-bit samples in, bytes of a file out, as soon as they are final.

The codings are libsndfile's. PCM, WAV and FLAC hold exactly the same samples.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile
from torch import Tensor

from wishbone.core.serve.refusal import Refusal

UNKNOWN = 0xFFFFFFFF
"""Length in the header of a WAV file that is still being written; players read to its end."""
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


def as_pcm(samples: Tensor) -> np.ndarray:
    """Convert samples [S] to 16 bits, as ``wishbone say`` writes them to standard output."""
    return (samples.clamp(-1, 1) * 32767).round().short().numpy().astype("<i2")  # [S]


class Encoder:
    """PCM: samples as they are, little-endian, one channel. Other formats extend it.

    A request without a sample is an error, so that no encoder ends before its first one.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate

    def add(self, samples: np.ndarray) -> bytes:
        """Encode samples [S] -> the bytes that are final now."""
        return samples.tobytes()

    def finish(self) -> bytes:
        """Return the bytes behind the last sample."""
        return b""


class WavEncoder(Encoder):
    """A header without a length in front of the samples."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__(sample_rate)
        form = struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
        length = struct.pack("<I", UNKNOWN)
        self._header = b"RIFF" + length + b"WAVEfmt " + form + b"data" + length

    def add(self, samples: np.ndarray) -> bytes:
        """Encode samples [S], the first of them behind the header."""
        header, self._header = self._header, b""
        return header + samples.tobytes()


class FlacEncoder(Encoder):
    """A whole file at the end: its header names the number of samples, which many readers need."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__(sample_rate)
        self._parts: list[np.ndarray] = []

    def add(self, samples: np.ndarray) -> bytes:
        """Remember samples [S]."""
        self._parts.append(samples)
        return b""

    def finish(self) -> bytes:
        """Return the file."""
        file = io.BytesIO()
        samples = np.concatenate(self._parts)
        soundfile.write(file, samples, self.sample_rate, subtype="PCM_16", format="FLAC")
        return file.getvalue()


class _Growing(io.RawIOBase):
    """A file that libsndfile writes: what was taken out of it is sent and cannot change."""

    def __init__(self) -> None:
        self._sent = self._position = 0
        self._pending = bytearray()

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write at the position; what would change bytes that were sent is dropped."""
        data = bytes(data)
        at = self._position - self._sent
        if at >= 0:
            self._pending[at : at + len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position."""
        start = (0, self._position, self._sent + len(self._pending))[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def take(self) -> bytes:
        """Take out the bytes written so far."""
        data = bytes(self._pending)
        self._pending.clear()
        self._sent += len(data)
        return data


class OpusEncoder(Encoder):
    """Opus in Ogg, page by page."""

    form = ("OGG", "OPUS", None)

    def __init__(self, sample_rate: int) -> None:
        super().__init__(sample_rate)
        container, coding, mode = self.form
        self._file = _Growing()
        self._sound = soundfile.SoundFile(
            self._file, "w", sample_rate, 1, coding, format=container, bitrate_mode=mode,
            compression_level=None if mode is None else 0.5,
        )  # fmt: skip

    def add(self, samples: np.ndarray) -> bytes:
        """Encode samples [S] -> complete pages."""
        self._sound.write(samples)
        return self._file.take()

    def finish(self) -> bytes:
        """Return the last pages."""
        self._sound.close()
        return self._file.take()


class FlacStreamEncoder(OpusEncoder):
    """FLAC, block by block: its header says that the number of samples is unknown.

    Decoders take it; a reader that wants the length from the header does not.
    """

    form = ("FLAC", "PCM_16", None)


class Mp3Encoder(OpusEncoder):
    """MP3 of constant bit rate: it needs no table in front that is known at the end only."""

    form = ("MP3", "MPEG_LAYER_III", "CONSTANT")


@dataclass(frozen=True)
class Format:
    """A name of ``response_format``: its media type, and the class that makes it."""

    media_type: str
    encoder: Callable[[int], Encoder]
    streaming: Callable[[int], Encoder] | None = None
    """The class for who asks for a stream, where that is another one."""


FORMATS = {
    "wav": Format("audio/wav", WavEncoder),
    "pcm": Format("audio/pcm", Encoder),
    "flac": Format("audio/flac", FlacEncoder, FlacStreamEncoder),
    "opus": Format("audio/ogg", OpusEncoder),
    "mp3": Format("audio/mpeg", Mp3Encoder),
}


def encoder_for(name: str, sample_rate: int, streaming: bool = False) -> Encoder:
    """Make the encoder of a format; ``streaming`` where a client asked for a stream by name.

    Raises ``Refusal`` for one that cannot be had.
    """
    if name not in FORMATS:
        names = ", ".join(FORMATS)
        message = f"response_format '{name}' cannot be written here. Use one of {names}."
        raise Refusal(400, message, "response_format", "unsupported_value")
    if name == "opus" and sample_rate not in OPUS_RATES:
        message = f"Opus knows no sample rate of {sample_rate}. Use wav, flac, mp3 or pcm."
        raise Refusal(400, message, "response_format", "unsupported_value")
    try:
        form = FORMATS[name]
        return ((streaming and form.streaming) or form.encoder)(sample_rate)
    except soundfile.LibsndfileError as error:
        message = f"libsndfile cannot write '{name}' on this machine. Use wav or pcm."
        raise Refusal(400, message, "response_format", "unsupported_value") from error
