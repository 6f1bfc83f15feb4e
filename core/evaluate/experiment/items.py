"""``items.jsonl``: one line for each thing that happened to an item, so that a run can go on.

An item is one arm speaking one prompt once. It gets a line when it is spoken and one when it is
judged; read together, later lines add to earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from wishbone.core.contract.errors import DataError
from wishbone.core.contract.extensions.metric import Row

Key = tuple[str, str, int]
"""Checkpoint, prompt, repeat."""
UNMEASURED = "not measured"
"""The failure of an item that ran out of processor time: it says nothing about the arm's speech, so
it is spoken again when the run goes on, and has no value until then."""

TYPES = {
    (str,): ("arm", "prompt", "text", "audio", "engine", "failure", "error", "heard"),
    (int,): ("repeat", "seed"),
    (int, float): ("seconds",),
    (dict,): ("judged",),
}
"""Types of the values of a line -> their names."""


@dataclass(frozen=True)
class Item:
    """One checkpoint speaking one prompt once; with its names alone while nothing is noted."""

    arm: str
    """Key of the checkpoint that speaks, or "reference"."""
    prompt: str
    """Key of the prompt."""
    repeat: int
    text: str = ""
    """The text that was spoken."""
    audio: str = ""
    """File of the recording, below the run's folder."""
    seed: int | None = None
    """None while it is not spoken, and for the reference's recordings."""
    engine: str = "eager"
    """Engine of the decoding steps."""
    failure: str = ""
    """Why it counts as failed, or ""."""
    error: str = ""
    """The error that ended it, or ""."""
    seconds: float = 0.0
    """Length of the audio."""
    transcript: str = ""
    """Words that a recogniser understood (``heard`` in the file)."""
    judged: Mapping[str, str] = field(default_factory=dict)
    """Metric -> the signature that it judged the recording with."""
    row: Row = field(default_factory=dict)
    """Everything noted by name, as the file has it: what metrics read their values from."""

    @classmethod
    def from_row(cls, row: Row) -> Item:
        """Build an item from its merged lines; raises ``ValueError`` for a wrong type."""
        for kinds, names in TYPES.items():
            for name in names:
                if row.get(name) is not None and not isinstance(row[name], kinds):
                    raise ValueError(f"'{name}' is {row[name]!r}")
        return cls(
            arm=str(row["arm"]),
            prompt=str(row["prompt"]),
            repeat=int(row["repeat"]),
            text=row.get("text", ""),
            audio=_below(row.get("audio", "")),
            seed=row.get("seed"),
            # runs from before engines were chosen do not name theirs
            engine=row.get("engine", "eager"),
            failure=row.get("failure", ""),
            error=row.get("error", ""),
            seconds=row.get("seconds", 0.0),
            transcript=row.get("heard") or "",
            judged=row.get("judged") or {},
            row=row,
        )

    @property
    def key(self) -> Key:
        """Checkpoint, prompt and repeat."""
        return self.arm, self.prompt, self.repeat

    @property
    def failed(self) -> bool:
        """True where the arm is to blame for what cannot be listened to."""
        return self.failure not in ("", UNMEASURED)

    def unjudged(self, signatures: Mapping[str, str]) -> list[str]:
        """Keys of the metrics that have not judged it yet, or not with the same signature."""
        return [key for key, line in signatures.items() if self.judged.get(key) != line]


def _below(name: str) -> str:
    """Return the name of a recording. Raises ``DataError`` where it leaves the run's folder."""
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"A recording is named '{name}', which is outside of the run's folder.",
            "items.jsonl",
            "Do not trust this run; a recording is named audio/ARM/PROMPT-REPEAT.flac.",
        )
    return name


class Items:
    """The items of one run, on disk as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._items: dict[Key, Item] = {}
        data = path.read_bytes() if path.exists() else b""
        self._torn = bool(data) and not data.endswith(b"\n")
        """True where the last line was cut by a kill: the next one must not continue it."""
        for number, line in enumerate(data.splitlines(), start=1):
            try:
                row = json.loads(line)
            except ValueError:
                # a line that a kill cut: its item is not known, and is spoken or judged again
                continue
            try:
                self._merge(row)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"A line of the items is damaged: {error!r}.",
                    f"{path}:{number}",
                    "Remove that line; what it told is made again.",
                ) from error

    def add(self, arm: str, prompt: str, repeat: int, values: Mapping[str, Any]) -> None:
        """Write down what is known about an item now."""
        row = {"arm": arm, "prompt": prompt, "repeat": repeat, **values}
        self._merge(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + json.dumps(row, ensure_ascii=False) + "\n")
        self._torn = False

    def know(self, row: Row) -> None:
        """Take what is known of an item, with its names, without writing it down."""
        self._merge(row)

    def get(self, arm: str, prompt: str, repeat: int) -> Item:
        """Return an item, with its names alone when nothing is known about it."""
        return self._items.get((arm, prompt, repeat)) or Item(arm, prompt, repeat)

    def of(self, arm: str) -> list[Item]:
        """All items of an arm, in the order of prompts and repeats."""
        return [item for key, item in sorted(self._items.items()) if key[0] == arm]

    def _merge(self, row: Row) -> None:
        item = Item.from_row(row)
        earlier = self._items.get(item.key)
        self._items[item.key] = Item.from_row({**earlier.row, **row}) if earlier else item
