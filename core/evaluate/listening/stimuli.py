"""Recordings of a listening test: those of an A/B's run, or of folders with equal file names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wishbone.core.audio.files import FORMATS, read, resample
from wishbone.core.contract.errors import UsageError
from wishbone.core.evaluate.experiment.items import Items

ITEMS = "items.jsonl"
"""The file by which a run of an A/B is known."""
WHERE = "wishbone listen make"


@dataclass(frozen=True)
class Stimuli:
    """Recordings by system and item, the same items of each system."""

    files: Mapping[str, Mapping[str, Path]]
    """System -> item -> recording."""
    texts: Mapping[str, str]
    """Item -> the sentence; empty where it is not known."""
    missing: Sequence[str]
    """Items that are left out because a system has no recording of them, or a failed one."""

    @property
    def systems(self) -> list[str]:
        """Names of the systems."""
        return list(self.files)

    @property
    def items(self) -> list[str]:
        """Names of the items."""
        return list(next(iter(self.files.values())))


def find_stimuli(sources: Sequence[str], systems: Sequence[str] = ()) -> Stimuli:
    """Find the recordings of runs and folders (``NAME=FOLDER`` names a folder's system).

    ``systems`` chooses some of them. Raises ``UsageError``.
    """
    files: dict[str, dict[str, Path]] = {}
    texts: dict[str, str] = {}
    for source in sources:
        more, sentences = _of_source(source)
        texts |= sentences
        for name, items in more.items():
            if name in files:
                raise UsageError(
                    f"Two sources are called '{name}'.", source, f"Say {name}-2={source}."
                )
            files[name] = items
    for name in systems:
        if name not in files:
            raise UsageError(
                f"There is no system '{name}'.", WHERE, f"There are: {', '.join(files)}."
            )
    return _common({name: files[name] for name in systems or files}, texts)


def load(files: Mapping[str, Mapping[str, Path]]) -> tuple[dict[tuple[str, str], np.ndarray], int]:
    """Read recordings -> (system, item) -> audio [S], all at the highest rate among them.

    Raises what ``files.read`` does.
    """
    audio = {
        (system, item): read(path)
        for system, items in files.items()
        for item, path in items.items()
    }
    rate = max(clip.sample_rate for clip in audio.values())
    return {place: resample(clip, rate).samples.numpy() for place, clip in audio.items()}, rate


def _of_source(source: str) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
    """Return the recordings of one source by system and item, and the sentences of its items."""
    name, sign, path = source.partition("=")
    named = bool(sign) and not Path(source).exists()
    folder = Path(path if named else source)
    if not folder.is_dir():
        raise UsageError(
            "There is no such folder.", str(folder), "Name a run's folder, or folders of WAVs."
        )
    if (folder / ITEMS).is_file():
        return _of_run(folder)
    files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in FORMATS}
    if not files:
        raise UsageError(
            "The folder holds no recording.", str(folder), f"Put {', '.join(FORMATS)} there."
        )
    return {name if named else folder.resolve().name: files}, {}


def _of_run(folder: Path) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
    items = Items(folder / ITEMS)
    files: dict[str, dict[str, Path]] = {}
    texts: dict[str, str] = {}
    for arm in _arms(folder / ITEMS):
        for item in items.of(arm):
            texts.setdefault(item.prompt, item.text)
            path = folder / item.audio
            if item.repeat == 0 and item.audio and not item.failure and path.is_file():
                files.setdefault(arm, {})[item.prompt] = path
    if not files:
        raise UsageError(
            "The run has no recordings.", str(folder), "Let 'wishbone ab' speak some sentences."
        )
    return files, texts


def _arms(path: Path) -> list[str]:
    """Names of the arms in a run's file, in the order in which they appear."""
    names: dict[str, None] = {}
    for line in path.read_bytes().splitlines():
        try:
            names.setdefault(str(json.loads(line)["arm"]))
        except (ValueError, KeyError, TypeError):
            # the last line of a run that was killed while it wrote
            continue
    return list(names)


def _common(files: Mapping[str, Mapping[str, Path]], texts: Mapping[str, str]) -> Stimuli:
    every = dict.fromkeys(item for items in files.values() for item in items)
    common = [item for item in every if all(item in items for items in files.values())]
    if not common:
        raise UsageError(
            "No item has a recording of every system.",
            WHERE,
            "Give the files of one sentence the same name in every folder, or choose --systems.",
        )
    return Stimuli(
        {name: {item: items[item] for item in common} for name, items in files.items()},
        {item: texts.get(item, "") for item in common},
        [item for item in every if item not in common],
    )
