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
from wishbone.core.contract.metric import Clip, resample
from wishbone.core.contract.optional import need
from wishbone.core.evaluate.measure.score import Panel, summarize
from wishbone.core.evaluate.report.terminal import progress
from wishbone.core.evaluate.statistics.paired import bootstrap

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
    """Why it cannot be used here, or an empty string."""


def opus(audio: np.ndarray, rate: int) -> tuple[np.ndarray, int, int]:
    """Through libopus for speech; the bits are those of its packets, without the Ogg around them.

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
    found, rate = soundfile.read(buffer, dtype="float32", always_2d=True)
    return found.mean(axis=1), rate, bits


def codec2(mode: str) -> Coder:
    """Through the programs ``c2enc`` and ``c2dec`` at one of their rates.

    The bits are those of the mode; the programs' files pad every frame to whole bytes.
    """

    def code(audio: np.ndarray, rate: int) -> tuple[np.ndarray, int, int]:
        sent = _run(["c2enc", mode, "-", "-"], _integers(resample(audio, rate, NARROW)).tobytes())
        heard = np.frombuffer(_run(["c2dec", mode, "-", "-"], sent), np.int16)
        bits = int(mode.rstrip("C")) * len(heard) // NARROW
        return heard.astype(np.float32) / 32768, NARROW, bits

    return code


def narrow(audio: np.ndarray, rate: int) -> tuple[np.ndarray, int, int]:
    """Nothing but fewer samples: what Codec 2 gets, in 16 bits each."""
    samples = resample(audio, rate, NARROW)
    return samples, NARROW, 16 * len(samples)


def _integers(audio: np.ndarray) -> np.ndarray:
    return (np.clip(audio, -1, 1) * 32767).astype(np.int16)


def _run(words: list[str], given: bytes) -> bytes:
    done = subprocess.run(words, input=given, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(
            f"{words[0]} failed with code {done.returncode}: {' '.join(said)}.",
            " ".join(words),
            "Install another version of codec2, or leave out --peers.",
        )
    return done.stdout


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
    """Every recording through every peer that is there.

    Returns name -> (recordings, bits per second), and name -> reason for those that are not.
    """
    made: dict[str, tuple[list[Clip], float]] = {}
    absent = {peer.name: why for peer in peers if (why := peer.missing())}
    for peer in peers:
        if peer.name in absent:
            continue
        clips, bits = [], 0
        for clip in progress(originals, peer.name):
            audio, rate, spent = peer.code(clip.audio, clip.rate)
            clips.append(Clip(clip.key, clip.text, audio, rate))
            bits += spent
        made[peer.name] = (clips, bits / sum(clip.seconds for clip in originals))
    return made, absent


@dataclass
class Listening:
    """Judging many sets of recordings, which goes on where it was stopped.

    What was heard in a recording is kept in ``path`` by the hash of its samples, so that after a
    change of one codec only that one is listened to again. Rows of other judges are not used.
    """

    panel: Panel
    path: Path | None
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    EVERY = 10
    """Recordings after which the file is written."""

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
            rows = [row for each in before["sets"].values() for row in each["items"]]
            same = before["signatures"] == self.panel.first.signatures
            self.known = {row["audio"]: row for row in rows} if same else {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"The file holds something else: {error!r}.", str(self.path), "Name another file."
            ) from error

    def judge(self, name: str, clips: Sequence[Clip], bits: float | None = None) -> Rows:
        """Rows of a set of recordings; ``bits`` per second go into the file with them."""
        marks = [hashlib.sha256(clip.audio.tobytes()).hexdigest()[:16] for clip in clips]
        todo = [pair for pair in zip(marks, clips, strict=True) if pair[0] not in self.known]
        judged = self.panel.map(lambda scorer, pair: scorer.score(pair[1]), todo)
        pairs = zip(progress(todo, f"listening to {name}"), judged, strict=True)
        for number, ((mark, _), row) in enumerate(pairs, start=1):
            self.known[mark] = {**row, "audio": mark}
            if number % self.EVERY == 0:
                self._note(name, bits, marks)
        return self._note(name, bits, marks)

    def _note(self, name: str, bits: float | None, marks: Sequence[str]) -> Rows:
        rows = [self.known[mark] for mark in marks if mark in self.known]
        self.sets[name] = {"bits_per_second": bits, "items": rows}
        if self.path:
            # rows of an earlier run that this one has not come to yet are kept
            others = {mark for each in self.sets.values() for mark in _marks(each["items"])}
            rest = [row for mark, row in self.known.items() if mark not in others]
            sets = self.sets | ({"not used": {"items": rest}} if rest else {})
            whole = {"signatures": self.panel.first.signatures, "sets": sets}
            text = json.dumps(whole, indent=1, ensure_ascii=False)
            write_text(self.path, text + "\n")
        return rows


def _marks(rows: Rows) -> list[str]:
    return [row["audio"] for row in rows]


def bits_of(codes: CodeSpace) -> float:
    """Bits per second of codes, each as long as any other."""
    return codes.rate * codes.codebooks * math.log2(codes.size)


def table(
    judged: Mapping[str, tuple[Rows, float]], original: Rows, absent: Mapping[str, str]
) -> list[str]:
    """One line a codec, the recordings themselves first; intervals are 95 %, paired by line."""
    words = np.array([row["words"] for row in original], float)

    def errors(rows: Rows) -> np.ndarray:
        found = np.array([min(row["errors"], row["words"]) for row in rows])
        return 100 * found / np.maximum(words, 1)

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
