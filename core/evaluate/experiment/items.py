"""``items.jsonl``: one line for each thing that happened to an item, so that a run can go on.

An item is one arm speaking one prompt once. It gets a line when it is made and one when it is
judged; read together, later lines add to earlier ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Key = tuple[str, str, int]
"""Arm, prompt, repeat."""


class Items:
    """The items of one run, on disk as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                self._merge(json.loads(line))
            except ValueError:
                # the last line of a run that was killed while it wrote
                continue

    def add(self, arm: str, prompt: str, repeat: int, values: dict[str, Any]) -> None:
        """Write down what is known about an item now."""
        row = {"arm": arm, "prompt": prompt, "repeat": repeat, **values}
        self._merge(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def get(self, arm: str, prompt: str, repeat: int) -> dict[str, Any]:
        """What is known about an item; empty when nothing is."""
        return self.rows.get((arm, prompt, repeat), {})

    def of(self, arm: str) -> list[dict[str, Any]]:
        """All items of an arm, in the order of prompts and repeats."""
        return [row for key, row in sorted(self.rows.items()) if key[0] == arm]

    def _merge(self, row: dict[str, Any]) -> None:
        key = (str(row["arm"]), str(row["prompt"]), int(row["repeat"]))
        self.rows.setdefault(key, {}).update(row)
