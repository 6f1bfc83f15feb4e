"""Metric ``versa``: any one value of VERSA's 90, from its command in a process of its own.

Shi et al. 2025, "VERSA: A Versatile Evaluation Toolkit for Speech, Audio, and Music". It has
requirements of its own, so that it stays in its own environment: its command is given recordings
and writes a line of JSON for each.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import soundfile

from wishbone.core.config.text_files import read_text
from wishbone.core.contract.errors import ConfigError, WishboneError
from wishbone.core.contract.extensions.metric import AudioMetric, Clip, MetricInfo, Value

LAST = 300
"""Characters of what a command said last, for errors."""


@dataclass
class VersaOptions:
    """Options of the metric."""

    score_config: str = ""
    """File that tells VERSA what to measure, such as its egs/speech.yaml."""
    value: str = ""
    """Name of the value in VERSA's lines, such as utmos."""
    command: str = "versa-score"
    """Command with its first words: ``/opt/versa/bin/python -m versa.bin.scorer``."""


class Versa(AudioMetric):
    """One value; nobody here knows whether more of it is better, so that it describes."""

    Config: ClassVar[type] = VersaOptions
    info = MetricInfo(
        key="versa",
        title="VERSA",
        unit="its own",
        better="neither",
        margin=None,
        about="A value of the toolkit VERSA, which the signature names; it describes.",
        digits=3,
    )
    listens_together = True

    def prepare(self) -> None:
        """Raise ``ConfigError`` where an option is missing."""
        config = self.config
        if not config.value or not Path(config.score_config).is_file():
            raise ConfigError(
                "The metric 'versa' does not say what VERSA is to measure.",
                "metrics.versa",
                "Write 'metrics: [{name: versa, score_config: FILE, value: NAME}]'.",
            )

    def listen(self, clips: Sequence[Clip]) -> None:
        """Judge many clips by one process: its networks take long to load."""
        self.prepare()
        with tempfile.TemporaryDirectory() as name:
            folder, lines = Path(name), Path(name) / "scores.jsonl"
            paths = {f"clip{number:06d}": clip for number, clip in enumerate(clips)}
            for key, clip in paths.items():
                soundfile.write(folder / f"{key}.wav", clip.audio, clip.rate, subtype="PCM_16")
            listing = "".join(f"{key} {folder / f'{key}.wav'}\n" for key in paths)
            (folder / "wav.scp").write_text(listing, encoding="utf-8")
            texts = "".join(f"{key} {' '.join(clip.text.split())}\n" for key, clip in paths.items())
            (folder / "text").write_text(texts, encoding="utf-8")
            self._run(folder, lines)
            values = _read(lines, self.config.value)
        for key, clip in paths.items():
            if key not in values:
                raise self._error(f"It gave no '{self.config.value}' of a recording.", "")
            clip.once(self._name, lambda key=key: values[key])

    def score(self, clip: Clip) -> Mapping[str, Value]:
        """The value that ``listen`` was told, or is told now."""
        if not clip.has(self._name):
            self.listen([clip])
        return {self.info.key: clip.once(self._name, float)}

    @property
    def _name(self) -> str:
        return f"versa {self.config}"

    def _run(self, folder: Path, lines: Path) -> None:
        words = [
            *shlex.split(self.config.command),
            "--score_config", self.config.score_config, "--pred", str(folder / "wav.scp"),
            "--text", str(folder / "text"), "--output_file", str(lines), "--io", "soundfile",
        ]  # fmt: skip
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise self._error(f"The command cannot be run: {error}.", "") from error
        if done.returncode or not lines.is_file():
            raise self._error(f"It ended with exit code {done.returncode}.", done.stderr)

    def _error(self, what: str, told: str) -> WishboneError:
        last = " ".join(told.split())[-LAST:]
        return WishboneError(
            f"VERSA did not measure: {what}" + (f" It said: {last}" if last else ""),
            self.config.command,
            "Run it by hand with the same file; 'command' may name the python of its environment.",
        )

    def signature(self) -> str:
        """The value, and what VERSA was told."""
        file = Path(self.config.score_config)
        told = " ".join(read_text(file).split()) if self.config.score_config else "none"
        return f"versa|{self.config.value or 'none'}|{told}"


def _read(lines: Path, name: str) -> dict[str, float]:
    """Key of a recording -> the value of that name, from lines of JSON."""
    values = {}
    for line in lines.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            values[str(row["key"])] = float(row[name])
        except (ValueError, KeyError, TypeError):
            continue
    return values
