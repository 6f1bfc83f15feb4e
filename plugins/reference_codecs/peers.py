"""Speech codecs that a codec is held against: the same recordings through each of them.

Opus (RFC 6716) at its lowest bit rate comes with PyAV; Codec 2 (David Rowe) at four rates is a
pair of programs that systems package. Codec 2 wants 8 000 samples a second, so a row without any
coding says what that alone costs. None is needed: what is not there is left out with a reason.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import DataError, WishboneError
from wishbone.core.contract.extensions.metric import Clip, resample
from wishbone.core.contract.extensions.optional import need
from wishbone.core.evaluate.measure.score import Panel, summarize
from wishbone.core.evaluate.statistics.paired import bootstrap
from wishbone.core.report.progress import progress

OPUS_BITS = 6_000
"""Bits per second, the lowest that Opus is specified for."""
OPUS_RATE = 24_000
NARROW = 8_000
"""Samples per second of Codec 2."""
CODEC2_MODES = ("700C", "1300", "2400", "3200")
"""Bits per second, as its programs name them."""

Rows = list[dict[str, Any]]
Coder = Callable[[np.ndarray, int], tuple[np.ndarray, int, int]]
"""audio [S] and its rate -> audio, its rate, and the bits that went between."""


@dataclass(frozen=True)
class Peer:
    """A way to send speech in few bits."""

    name: str
    code: Coder
    missing: Callable[[], str]
    """Returns the reason why it cannot be used on this machine, or an empty string."""


def opus(audio: np.ndarray, rate: int) -> tuple[np.ndarray, int, int]:
    """Code by libopus for speech; the bits are those of its packets, without the Ogg around them.

    Raises ``MissingExtra`` where PyAV is not installed.
    """
    av = need("av", "av", "code speech with Opus")
    samples = _integers(resample(audio, rate, OPUS_RATE))
    buffer, bits = io.BytesIO(), 0
    options = {"application": "voip", "frame_duration": "20"}
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=OPUS_RATE, options=options)
        stream.layout, stream.bit_rate = "mono", OPUS_BITS
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = OPUS_RATE
        for part in (frame, None):
            for packet in stream.encode(part):
                bits += 8 * packet.size
                container.mux(packet)
    buffer.seek(0)
    decoded, rate = soundfile.read(buffer, dtype="float32", always_2d=True)
    return decoded.mean(axis=1), rate, bits


def codec2(mode: str) -> Coder:
    """Code by the programs ``c2enc`` and ``c2dec`` at one of their rates.

    The bits are those of the mode; the programs' files pad every frame to whole bytes.
    """

    def code(audio: np.ndarray, rate: int) -> tuple[np.ndarray, int, int]:
        samples = _integers(resample(audio, rate, NARROW))
        frames = _run(["c2enc", mode, "-", "-"], samples.tobytes())
        decoded = np.frombuffer(_run(["c2dec", mode, "-", "-"], frames), np.int16)
        bits = int(mode.rstrip("C")) * len(decoded) // NARROW
        return decoded.astype(np.float32) / 32768, NARROW, bits

    return code


def narrow(audio: np.ndarray, rate: int) -> tuple[np.ndarray, int, int]:
    """Resample to the rate of Codec 2 and do nothing else, in 16 bits a sample."""
    samples = resample(audio, rate, NARROW)
    return samples, NARROW, 16 * len(samples)


def _integers(audio: np.ndarray) -> np.ndarray:
    return (np.clip(audio, -1, 1) * 32767).astype(np.int16)


def _run(command: list[str], data: bytes) -> bytes:
    process = subprocess.run(command, input=data, capture_output=True, check=False)
    if process.returncode or not process.stdout:
        message = process.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(
            f"{command[0]} failed with code {process.returncode}: {' '.join(message)}.",
            " ".join(command),
            "Install another version of codec2, or leave out --peers.",
        )
    return process.stdout


def _no_opus() -> str:
    try:
        need("av", "av", "code speech with Opus").codec.Codec("libopus", "w")
    except (WishboneError, ValueError) as error:
        return str(error).splitlines()[0]
    return ""


def _no_codec2() -> str:
    absent = [name for name in ("c2enc", "c2dec") if not shutil.which(name)]
    return f"no {' and '.join(absent)} here: install the system's package codec2" if absent else ""


PEERS = (
    Peer("Opus 6 kbit/s", opus, _no_opus),
    *(Peer(f"Codec 2 {mode}", codec2(mode), _no_codec2) for mode in reversed(CODEC2_MODES)),
    Peer("8 kHz, not coded", narrow, lambda: ""),
)


def copies(
    originals: Sequence[Clip], peers: Sequence[Peer] = PEERS
) -> tuple[dict[str, tuple[list[Clip], float]], dict[str, str]]:
    """Put every recording through every codec that is installed.

    Returns name -> (recordings, bits per second), and name -> reason for those that are not.
    """
    decoded: dict[str, tuple[list[Clip], float]] = {}
    absent = {peer.name: why for peer in peers if (why := peer.missing())}
    for peer in peers:
        if peer.name in absent:
            continue
        clips, bits = [], 0
        for clip in progress(originals, peer.name):
            audio, rate, spent = peer.code(clip.audio, clip.rate)
            clips.append(Clip(clip.key, clip.text, audio, rate))
            bits += spent
        decoded[peer.name] = (clips, bits / sum(clip.seconds for clip in originals))
    return decoded, absent


@dataclass
class Listening:
    """The judging of many sets of recordings, which goes on where it was stopped.

    ``path`` keeps the scores of a recording by the hash of its samples, so that after a change of
    one codec only that one is judged again. Scores of other judges are not used.
    """

    panel: Panel
    path: Path | None
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Hash of the samples -> scores of the recording."""
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    EVERY = 10
    """Recordings after which the file is written."""

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            earlier = json.loads(self.path.read_text(encoding="utf-8"))
            rows = [row for part in earlier["sets"].values() for row in part["items"]]
            same = earlier["signatures"] == self.panel.first.signatures
            self.scores = {row["audio"]: row for row in rows} if same else {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"The file holds something else: {error!r}.", str(self.path), "Name another file."
            ) from error

    def judge(self, name: str, clips: Sequence[Clip], bits: float | None = None) -> Rows:
        """Return the rows of a set of recordings; ``bits`` per second go into the file too."""
        hashes = [hashlib.sha256(clip.audio.tobytes()).hexdigest()[:16] for clip in clips]
        new = [pair for pair in zip(hashes, clips, strict=True) if pair[0] not in self.scores]
        judged = self.panel.map(lambda scorer, pair: scorer.score(pair[1]), new)
        pairs = zip(progress(new, f"listening to {name}"), judged, strict=True)
        for number, ((key, _), row) in enumerate(pairs, start=1):
            self.scores[key] = {**row, "audio": key}
            if number % self.EVERY == 0:
                self._write(name, bits, hashes)
        return self._write(name, bits, hashes)

    def _write(self, name: str, bits: float | None, hashes: Sequence[str]) -> Rows:
        rows = [self.scores[key] for key in hashes if key in self.scores]
        self.sets[name] = {"bits_per_second": bits, "items": rows}
        if self.path:
            # rows of an earlier run that this one has not come to yet stay in the file
            used = {row["audio"] for part in self.sets.values() for row in part["items"]}
            unused = [row for key, row in self.scores.items() if key not in used]
            sets = self.sets | ({"not used": {"items": unused}} if unused else {})
            data = {"signatures": self.panel.first.signatures, "sets": sets}
            write_text(self.path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        return rows


def bits_of(codes: CodeSpace) -> float:
    """Return the bits per second of codes, each as long as any other."""
    return codes.rate * codes.codebooks * math.log2(codes.size)


def table(
    judged: Mapping[str, tuple[Rows, float]], original: Rows, absent: Mapping[str, str]
) -> list[str]:
    """Write a line for each codec, the recordings first; intervals are 95 %, paired by line."""
    words = np.array([row["words"] for row in original], float)

    def errors(rows: Rows) -> np.ndarray:
        counts = np.array([min(row["errors"], row["words"]) for row in rows])  # [N]
        return 100 * counts / np.maximum(words, 1)  # [N]

    lines = [f"{'':<18}{'bit/s':>8}  {'word errors':<22}{'above original':<24}DNSMOS"]
    for name, (rows, bits) in {"original": (original, 0.0), **judged}.items():
        wer = bootstrap(errors(rows), words)
        above = bootstrap(errors(rows) - errors(original), words)
        lines.append(
            f"{name:<18}{f'{bits:.0f}' if bits else '-':>8}  "
            f"{f'{wer.estimate:.1f} % ({wer.low:.1f} to {wer.high:.1f})':<22}"
            f"{f'{above.estimate:+.1f} ({above.low:+.1f} to {above.high:+.1f})':<24}"
            f"{summarize(rows)['dnsmos']:.2f}"
        )
    return lines + [f"{name}: left out ({why})" for name, why in absent.items()]
