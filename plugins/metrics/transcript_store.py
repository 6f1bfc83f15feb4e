"""Transcripts of earlier runs, so that a recording is listened to once and not in every evaluation.

A file for each recogniser below the user's cache folder (``WISHBONE_CACHE``), a line for each
recording. Lines are added only; what a killed process has left of one is passed over.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np


class TranscriptStore:
    """Transcripts by recording, in one file that several processes may share."""

    def __init__(self, folder: Path, signature: str) -> None:
        """``signature`` says everything but the recording that decides a transcript."""
        name = hashlib.sha256(signature.encode()).hexdigest()[:16]
        self.path = folder / f"{name}.jsonl"
        self.signature = signature

    @cached_property
    def _texts(self) -> dict[str, str]:
        texts = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except OSError:
            return {}
        for line in lines:
            try:
                row = json.loads(line)
                texts[str(row["recording"])] = str(row["text"])
            except (ValueError, KeyError, TypeError):
                continue  # written in part
        return texts

    def get(self, audio: np.ndarray) -> str | None:
        """Return the transcript of audio [S], None where there is none yet."""
        return self._texts.get(_digest(audio))

    def add(self, audio: np.ndarray, text: str) -> None:
        """Note the transcript of audio [S]; a folder that cannot be written to is no error."""
        row = {"recording": _digest(audio), "text": text}
        self._texts[row["recording"]] = text
        try:
            begins = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                # one write, so that lines of several processes do not mix; the first newline ends
                # what a killed process may have left
                about = json.dumps({"signature": self.signature}) if begins else ""
                file.write(f"{about}\n{json.dumps(row)}\n".encode())
        except OSError:
            return


def _digest(audio: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(audio, np.float32).tobytes()).hexdigest()
