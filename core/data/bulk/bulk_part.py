"""One part of a list: spoken in a batch, written item by item, continued after any stop.

Below the output folder: ``synth.json`` says of which list and how all is spoken, ``audio/ID.flac``
are the recordings, ``items/PART.jsonl`` a line for each item that a part has finished. When all are
there, ``items.jsonl`` holds them in the order of the list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wishbone.core.contract.atomic import write_text
from wishbone.core.contract.errors import UsageError, WishboneError
from wishbone.core.data.bulk.lists import Item
from wishbone.core.model.device import torch_threads
from wishbone.core.report.progress import progress
from wishbone.core.scale.part_lock import locked_part
from wishbone.core.scale.step import LOGS, Done
from wishbone.core.speak.server import Request, Server, SpokenRequest
from wishbone.core.speak.voice import Voice, find
from wishbone.core.system.system import System

MARK = "synth.json"
ITEMS = "items.jsonl"
BLOCK = 256
"""Items that wait at a time; voices of recordings are made for so many at once."""
VOICES = 64
"""Voices of recordings that are remembered."""


@dataclass(frozen=True)
class How:
    """All that decides how an item sounds, beside the system."""

    voice: str = ""
    """The voice of items that name none; "" is the system's."""
    seed: int = 0
    """The seed of items that name none."""
    together: int = 8
    """Slots of the batch."""
    form: str = "flac"
    """Ending of the recordings."""
    threads: int = 1
    """PyTorch's threads: sums of floats are cut by their number."""


def claim(out: Path, items: Sequence[Item], system_key: str, how: How) -> None:
    """Begin an output folder, or go on with one of the same list, system and options.

    Raises ``UsageError`` for a folder of anything else.
    """
    listed = hashlib.sha256(repr([astuple(item) for item in items]).encode()).hexdigest()
    mark = {"items": len(items), "list": listed, "system": system_key, **vars(how)}
    path = out / MARK
    # a process that was killed here may have left a temporary file, and no folders
    if out.exists() and not path.is_file():
        others = any(not (e.name.startswith(".") or e.name == LOGS) for e in out.iterdir())
        # another part may have begun the folder between these two looks
        if others and not path.is_file():
            raise UsageError(
                "The folder holds something else.",
                str(out),
                "Choose an empty --out, or a new one.",
            )
    if path.is_file():
        try:
            before = json.loads(path.read_bytes())
        except ValueError:
            before = None
        if before != mark:
            keys = [k for k in mark if not isinstance(before, dict) or before.get(k) != mark[k]]
            raise UsageError(
                f"The folder holds items of another {', '.join(keys)}.",
                str(out),
                "Choose another --out, or repeat the command that began it.",
            )
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(mark, indent=1) + "\n")
    for folder in ("items", "audio"):
        (out / folder).mkdir(exist_ok=True)


def speak_part(
    system: System, items: Sequence[Item], out: Path, how: How, part: int = 1, parts: int = 1
) -> list[dict[str, Any]]:
    """Speak item ``part``, ``part + parts`` and so on of the list, from 1 -> rows of this run.

    Rows come in the order in which items end. What any part has finished is passed over. Raises
    ``UsageError`` where another process speaks the same part now, or the list in another number
    of parts.
    """
    return list(_speak_part(system, items, out, how, part, parts))


def _speak_part(
    system: System, items: Sequence[Item], out: Path, how: How, part: int, parts: int
) -> Iterator[dict[str, Any]]:
    file = out / "items" / f"{part:05d}-of-{parts:05d}.jsonl"
    with locked_part(file, part, parts):
        _refuse_other_parts(out, parts)
        _mend(file)
        done = finished(out)
        missing = [item for item in items[part - 1 :: parts] if item.id not in done]
        with file.open("a", encoding="utf-8") as record:
            for row in _speak(system, missing, out, how):
                record.write(json.dumps(row, ensure_ascii=False) + "\n")
                record.flush()
                yield row


def _refuse_other_parts(out: Path, parts: int) -> None:
    """Raise ``UsageError`` where processes share the list in another number of parts now."""
    for path in sorted((out / "items").glob("*.lock")):
        count = path.name.partition("-of-")[2].partition(".")[0]
        if count == f"{parts:05d}":
            continue
        other = FileLock(path)
        try:
            other.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"The list is being spoken in {int(count)} parts, and this is one of {parts}.",
                str(path),
                "Wait for them, or give this process one of the same number of parts.",
            ) from None
        other.release()


@dataclass(frozen=True)
class SynthStep:
    """The items of a list as a step: rank r of N speaks every N-th item, from the r-th."""

    items: Sequence[Item]
    folder: Path
    how: How
    load: Callable[[], tuple[System, str]]
    """Returns the system and a hash of all that decides how it speaks; it loads once."""

    def __call__(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """As ``run``: datatrove's pipelines call their steps."""
        return self.run(data, rank, world_size)

    def prepare(self) -> None:
        """Load the system and begin the folder, or raise ``UsageError`` for one of other items."""
        _, system_key = self.load()
        claim(self.folder, self.items, system_key, self.how)

    def run(
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Done]:
        """Speak the missing items of a rank; whoever is last writes ``items.jsonl``."""
        self.prepare()
        part, (system, _) = rank + 1, self.load()
        with torch_threads(self.how.threads):
            for row in _speak_part(system, self.items, self.folder, self.how, part, world_size):
                yield Done(row["id"], 1, row["seconds"], int(bool(row["failure"])))
        gather(self.items, self.folder)

    def unfinished(self, rank: int = 0, world_size: int = 1) -> int:
        """Return how many items of a rank are missing."""
        rows = finished(self.folder)
        return sum(item.id not in rows for item in self.items[rank::world_size])


def finished(out: Path) -> dict[str, dict[str, Any]]:
    """Rows of all parts by id; a row whose recording is missing does not count."""
    rows: dict[str, dict[str, Any]] = {}
    for file in sorted((out / "items").glob("*.jsonl")):
        for row in _rows(file):
            if row["failure"] or (out / row["audio"]).is_file():
                rows.setdefault(row["id"], row)
    return rows


def gather(items: Sequence[Item], out: Path) -> int:
    """Write ``items.jsonl`` if every item is finished -> number of items that are not."""
    rows = finished(out)
    missing = sum(item.id not in rows for item in items)
    if not missing:
        lines = [json.dumps(rows[item.id], ensure_ascii=False) for item in items]
        write_text(out / ITEMS, "\n".join(lines) + "\n")
    return missing


def _speak(system: System, items: Sequence[Item], out: Path, how: How) -> Iterator[dict[str, Any]]:
    server = Server(system, how.together if system.sampling.guidance == 1 else 2 * how.together)

    @lru_cache(VOICES)
    def recorded(recording: str, transcript: str) -> Voice:
        return Voice.from_audio(system, recording, transcript)

    def requests(block: Sequence[Item]) -> Iterator[tuple[Item, Request | WishboneError]]:
        for item in block:
            seed = how.seed if item.seed is None else item.seed
            try:
                name = item.voice or how.voice
                voice = find(name, system) if name else None
                if item.recording:
                    voice = recorded(item.recording, item.transcript)
                yield item, Request(item.text, voice, seed)
            except WishboneError as error:
                yield item, error

    def spoken(block: Sequence[Item]) -> Iterator[dict[str, Any]]:
        ready: list[tuple[Item, Request]] = []
        for item, request in requests(block):
            if isinstance(request, WishboneError):
                yield _row(item, how, None, str(request))
            else:
                ready.append((item, request))
        for answer in server.say(request for _, request in ready):
            item = ready[answer.number][0]
            error = "" if answer.error is None else str(answer.error)
            if not error:
                answer.audio.save(out / _audio(item, how), overwrite=True)
            yield _row(item, how, answer, error)

    blocks = (items[start : start + BLOCK] for start in range(0, len(items), BLOCK))
    rows = (row for block in blocks for row in spoken(block))
    for _, row in zip(progress(items, "speaking"), rows, strict=True):
        yield row


def _audio(item: Item, how: How) -> str:
    return f"audio/{item.id}.{how.form}"


def _row(item: Item, how: How, answer: SpokenRequest | None, failure: str) -> dict[str, Any]:
    """The line of an item: what was to be spoken, and what came of it."""
    utterances = answer.utterances if answer and not failure else []
    return {
        "id": item.id,
        "text": item.text,
        "audio": "" if failure else _audio(item, how),
        "seconds": round(answer.audio.seconds, 4) if answer and not failure else 0.0,
        "seed": how.seed if item.seed is None else item.seed,
        "voice": item.recording or item.voice or how.voice,
        "failure": " ".join(failure.split()),
        "notes": sorted({note for one in utterances for note in (one.reason, one.trouble) if note}),
        "codes": [list(frame) for one in utterances for frame in one.codes],
    }


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """Complete rows of a part; a line that was cut by a kill is none."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"id", "audio", "failure"} <= row.keys():
            yield row


def _mend(file: Path) -> None:
    """Leave complete rows alone in the file of a part, so that the next one begins a line."""
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(file)]
        write_text(file, "".join(rows))
