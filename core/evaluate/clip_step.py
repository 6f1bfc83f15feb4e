"""Recordings judged in parts, by any number of processes, for ``wishbone evaluate audio``.

Part K of N has every N-th recording, from the K-th, and writes a row for each into
``rows-K-of-N.jsonl`` below the output folder. ``judging.json`` says what is judged, and by what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import UsageError
from wishbone.core.contract.extensions.metric import Clip, Row
from wishbone.core.evaluate.measure.clips import read_audio
from wishbone.core.evaluate.measure.score import Panel
from wishbone.core.report.progress import progress
from wishbone.core.scale.part_lock import locked_part
from wishbone.core.scale.step import LOGS, Done

MARK = "judging.json"
BLOCK = 64
"""Recordings that are read at a time: 40 MB at 5 s each."""


@dataclass(frozen=True)
class ClipStep:
    """Judging of recordings as a step; a piece is a recording."""

    folder: Path
    """The output folder."""
    files: Sequence[tuple[Path, str]]
    """Every recording with its text."""
    metrics: Sequence[str]
    """Keys of the metrics that judge."""
    open_panel: Callable[[], Panel]
    """Makes the judges, which is done where something is to be judged."""

    def prepare(self) -> None:
        """Begin the output folder, or go on with one of the same recordings and metrics.

        Raises ``UsageError`` for a folder of anything else.
        """
        listed = [(path.name, path.stat().st_size, text) for path, text in self.files]
        digest = hashlib.sha256(repr(listed).encode()).hexdigest()
        mark = json.dumps({"recordings": digest, "metrics": list(self.metrics)}, indent=1) + "\n"
        path = self.folder / MARK
        others = [e for e in _contents(self.folder) if not (e.name[0] == "." or e.name == LOGS)]
        if others and (not path.is_file() or path.read_text(encoding="utf-8") != mark):
            raise UsageError(
                "The folder holds something else, or the judgement of other recordings or metrics.",
                str(self.folder),
                "Choose another --out, or repeat the command that began it.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, mark)

    def run(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """Judge the recordings of a rank that have no row yet.

        Raises ``UsageError`` where another process is at the same part.
        """
        file = self.folder / f"rows-{rank + 1:05d}-of-{world_size:05d}.jsonl"
        with locked_part(file, rank + 1, world_size):
            done = self._rows()
            missing = [pair for pair in self.files[rank::world_size] if pair[0].stem not in done]
            for row in self._judge(missing, file) if missing else ():
                yield Done(str(row["key"]), 1, float(row["seconds"]), int(bool(row["failure"])))

    def unfinished(self, rank: int = 0, world_size: int = 1) -> int:
        """Return how many recordings of a rank have no row."""
        done = self._rows()
        return sum(path.stem not in done for path, _ in self.files[rank::world_size])

    def rows(self) -> list[Row]:
        """Rows of all recordings, in their order; those that are missing are left out."""
        done = self._rows()
        return [done[path.stem] for path, _ in self.files if path.stem in done]

    def _judge(self, pairs: Sequence[tuple[Path, str]], file: Path) -> Iterator[Row]:
        panel = self.open_panel()
        bar = iter(progress(pairs, "listening"))
        torn = file.is_file() and not file.read_bytes().endswith(b"\n")
        with file.open("a", encoding="utf-8") as record:
            record.write("\n" * torn)
            for begin in range(0, len(pairs), BLOCK):
                block = pairs[begin : begin + BLOCK]
                clips = [Clip(path.stem, text, *read_audio(path)) for path, text in block]
                for row in panel.map(lambda scorer, clip: scorer.score(clip), clips):
                    record.write(json.dumps(row, ensure_ascii=False) + "\n")
                    record.flush()
                    next(bar)
                    yield row
        next(bar, None)

    def _rows(self) -> dict[str, Row]:
        """Key -> row of every recording that any part has judged."""
        rows: dict[str, Row] = {}
        for file in sorted(self.folder.glob("rows-*.jsonl")):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    rows[str(row["key"])] = row
                except (ValueError, TypeError, KeyError):
                    # a line that a kill cut: its recording is judged again
                    continue
        return rows


def _contents(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
