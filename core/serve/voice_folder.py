"""Voices by name: those that come with Wishbone, and those uploaded into one folder.

A name is never a path: it is looked up among the names that exist.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch

from wishbone.core.audio.files import Audio
from wishbone.core.contract.errors import WishboneError
from wishbone.core.serve.refusal import Refusal, of_error
from wishbone.core.serve.settings import NAME, Limits
from wishbone.core.speak.voice import LONGEST_PROMPT, Voice
from wishbone.core.speak.voice_files import bundled
from wishbone.core.system.system import System

DEFAULT = "default"
"""Name of the voice that each system has by itself."""
SHORTEST = 0.5
"""Seconds of a recording."""
SILENCE = 1e-3
"""Largest sample below which a recording holds no speech."""
RATES = (8_000, 192_000)
MOST_CHANNELS = 8
MOST_TRANSCRIPT = 1000
"""Characters of a transcript; 30 seconds of speech have about 500."""
BEGINNINGS = {"WAV": b"RIFF", "FLAC": b"fLaC", "OGG": b"OggS", "MP3": b"ID3"}
"""First bytes of the formats that an upload may have; an MP3 without a tag begins otherwise."""


@dataclass(frozen=True)
class _Cached:
    """A voice as it was read, and the state of its file then."""

    voice: Voice
    stamp: tuple[int, int]


class VoiceFolder:
    """A folder of voice files, and the bundled ones beside it. Methods run in any thread."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._cached: dict[str, _Cached] = {}
        self._bundled = {name: None for name in bundled()}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names of all voices, the bundled ones first."""
        return [*self._bundled, *(n for n in self._own() if n not in self._bundled)]

    def read(self, name: str) -> Voice:
        """Return the voice of a name. Raises ``Refusal`` (404) where there is none."""
        path = self._path(name)
        if name in self._bundled:
            source, stamp = name, (0, 0)
        elif path is not None and path.is_file():
            status = path.stat()
            source, stamp = str(path), (status.st_mtime_ns, status.st_size)
        else:
            raise self._unknown(name)
        with self._lock:
            cached = self._cached.get(name)
            if cached is None or cached.stamp != stamp:
                try:
                    cached = _Cached(Voice.load(source), stamp)
                except WishboneError as error:
                    raise of_error(error, "voice") from error
                self._cached[name] = cached
            return cached.voice

    def describe(self, name: str, rate: float) -> dict[str, Any]:
        """Facts of a voice for a listing; ``rate`` is the codec's, in frames per second."""
        voice = self.read(name)
        return {
            "object": "voice",
            "id": name,
            "name": name,
            "seconds": round(len(voice.speech) / rate, 2),
            "bundled": name in self._bundled,
            "transcript": voice.transcript,
            "licence": voice.licence,
            "about": voice.about,
        }

    def add(self, name: str, recording: bytes, transcript: str, system: System) -> Voice:
        """Make a voice of a recording and write it. Raises ``Refusal`` for what is no voice."""
        self.check_name(name)
        transcript = check_transcript(transcript)
        audio = decode(recording)
        try:
            with torch.inference_mode():
                voice = Voice.from_audio(system, audio, transcript, name=name)
        except WishboneError as error:
            raise of_error(error, "audio") from error
        with self._lock:
            path = self.check_name(name)
            try:
                voice.save(path)
            except OSError as error:
                message = "The folder of voices cannot be written to."
                raise Refusal(500, message, code="storage") from error
        return voice

    def remove(self, name: str) -> None:
        """Delete an uploaded voice. Raises ``Refusal`` for a bundled one and an unknown name."""
        if name in self._bundled:
            raise Refusal(400, f"The voice '{name}' comes with Wishbone and stays.", "name")
        path = self._path(name)
        with self._lock:
            if path is None or not path.is_file():
                raise self._unknown(name)
            path.unlink()
            path.with_suffix(".safetensors").unlink(missing_ok=True)
            self._cached.pop(name, None)

    def check_name(self, name: str) -> Path:
        """Return the file of a new voice. Raises ``Refusal`` for a name it cannot have."""
        path = self._path(name)
        if path is None:
            message = (
                "A voice's name has 1 to 64 letters, digits, '_', '-' or '.', and begins with a"
                " letter or digit."
            )
            raise Refusal(400, message, "name")
        if name == DEFAULT or name in self._bundled or path.exists():
            raise Refusal(409, f"There is a voice '{name}' already.", "name", "name_taken")
        if len(self._own()) >= self.limits.voices:
            message = f"The folder holds {self.limits.voices} voices. Delete one first."
            raise Refusal(409, message, "name", "folder_full")
        return path

    def _own(self) -> list[str]:
        names = [path.stem for path in self.folder.glob("*.yaml")] if self.folder.is_dir() else []
        return sorted(name for name in names if NAME.fullmatch(name) and name != DEFAULT)

    def _path(self, name: str) -> Path | None:
        """File of a name, directly inside the folder; None for what is no name."""
        return self.folder / f"{name}.yaml" if NAME.fullmatch(name) else None

    def _unknown(self, name: str) -> Refusal:
        names = ", ".join(self.names()[:20])
        message = f"There is no voice '{name[:64]}'. Voices: {DEFAULT}, {names}."
        return Refusal(404, message, "voice", "voice_not_found")


def check_transcript(transcript: str) -> str:
    """Return a transcript in one line. Raises ``Refusal`` for none and for too long a one."""
    transcript = " ".join(transcript.split())
    if not any(map(str.isalnum, transcript)) or not transcript.isprintable():
        message = "transcript holds no words: write down what the recording says, every word."
        raise Refusal(400, message, "transcript")
    if len(transcript) > MOST_TRANSCRIPT:
        message = f"transcript has {len(transcript)} characters; {MOST_TRANSCRIPT} are enough."
        raise Refusal(400, message, "transcript")
    return transcript


def decode(recording: bytes) -> Audio:
    """Decode an uploaded recording, its channels averaged.

    The type is told by the first bytes and the length by the header, before a sample is decoded,
    and never more than the longest recording is decoded. Raises ``Refusal``.
    """
    if not recording:
        raise Refusal(400, "audio is empty.", "audio")
    is_mp3 = recording[0] == 0xFF and len(recording) > 1 and recording[1] & 0xE0 == 0xE0
    if not (is_mp3 or any(recording.startswith(start) for start in BEGINNINGS.values())):
        names = ", ".join(BEGINNINGS)
        raise Refusal(400, f"audio is none of {names}, by its first bytes.", "audio")
    try:
        with soundfile.SoundFile(io.BytesIO(recording)) as file:
            _check_header(file)
            most = int((LONGEST_PROMPT + 1) * file.samplerate)
            samples = file.read(most, dtype="float32", always_2d=True)  # [S, channels]
            rate = file.samplerate
    except Refusal:
        raise
    except (soundfile.SoundFileError, ValueError, OverflowError, MemoryError) as error:
        raise Refusal(400, "audio cannot be decoded. Send 16-bit WAV.", "audio") from error
    mixed = torch.from_numpy(samples).mean(1)  # [S]
    if not torch.isfinite(mixed).all():
        raise Refusal(400, "audio holds samples that are no numbers.", "audio")
    if len(mixed) < SHORTEST * rate:
        raise Refusal(400, f"audio is shorter than {SHORTEST} s.", "audio")
    if len(mixed) > LONGEST_PROMPT * rate:
        raise Refusal(400, f"audio is longer than {LONGEST_PROMPT:.0f} s.", "audio")
    if mixed.abs().max() < SILENCE:
        raise Refusal(400, "audio is silent: record it again.", "audio")
    return Audio(mixed, rate)


def _check_header(file: soundfile.SoundFile) -> None:
    if not RATES[0] <= file.samplerate <= RATES[1]:
        message = f"audio has {file.samplerate} samples per second; {RATES[0]} to {RATES[1]} work."
        raise Refusal(400, message, "audio")
    if file.channels > MOST_CHANNELS:
        raise Refusal(400, f"audio has {file.channels} channels; one is enough.", "audio")
    unknown = file.frames >= 2**62
    if file.frames > LONGEST_PROMPT * file.samplerate and not unknown:
        message = f"audio is {file.frames / file.samplerate:.0f} s long; {LONGEST_PROMPT:.0f} fit."
        raise Refusal(400, message, "audio")
