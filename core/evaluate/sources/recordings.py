"""A folder of recordings as an arm: what other programs said, or what another version did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wishbone.core.contract.errors import UsageError, WishboneError
from wishbone.core.evaluate.experiment.generate import Generation
from wishbone.core.evaluate.measure.clips import failure, read_audio
from wishbone.core.evaluate.result import Prompt
from wishbone.core.evaluate.sources.outside import ENDINGS, recordings_in
from wishbone.core.evaluate.sources.source import Source, Spoken

ENGINE = "recordings"
"""Stands where a system has its engine."""


class Recordings(Source):
    """A file for each prompt; a prompt without one counts as failed, and is never left out."""

    def __init__(self, folder: Path, prompts: Sequence[Prompt], available: int) -> None:
        """``available`` is the number of lines of the list that ``prompts`` are the first of.

        Raises ``UsageError`` where files and prompts cannot be matched.
        """
        self.files = matched(folder, prompts, available)

    def speak(self, prompt: Prompt, seed: int, voice: str | None) -> Spoken:
        """Read the recording; ``seed`` and ``voice`` say nothing to it."""
        file, error = self.files.get(prompt.key), ""
        audio, rate = np.zeros(0, np.float32), 16_000
        if file is None:
            error = "there is no recording of it"
        else:
            try:
                audio, rate = read_audio(file)
            except WishboneError as problem:
                error = problem.what
        generation = Generation(
            seed=seed,
            computing=0.0,
            seconds=round(len(audio) / rate, 4),
            codes=0,
            cut_words=0,
            engine=ENGINE,
            failure="error" if error else failure(audio, rate, prompt.text),
            error=error,
        )
        return Spoken(generation, audio, rate)


def matched(folder: Path, prompts: Sequence[Prompt], available: int) -> dict[str, Path]:
    """Key of a prompt -> its recording: by the names of the list, by numbers, or by their order.

    Raises ``UsageError`` for a folder that is missing or empty, and where none of these fits.
    """
    if not folder.is_dir():
        raise UsageError(
            "There is no such folder of recordings.", str(folder), "Correct 'audio' of the arm."
        )
    files = recordings_in(folder)
    if not files:
        raise UsageError(
            "The folder holds no recording.", str(folder), f"Put {', '.join(ENDINGS)} there."
        )
    by_stem = {file.stem: file for file in files}
    if len(by_stem) < len(files):
        raise UsageError(
            "Two recordings have one name with different endings.",
            str(folder),
            "Keep one recording for each prompt.",
        )
    named = {p.key: by_stem[p.name] for p in prompts if p.name and p.name in by_stem}
    if named:
        return named
    if all(stem.isdigit() for stem in by_stem):
        by_line = {int(stem): file for stem, file in by_stem.items()}
        numbered = {p.key: by_line[int(p.key)] for p in prompts if int(p.key) in by_line}
        if numbered:
            return numbered
    elif len(files) == available:
        # the lines of the list, in the order of the files' names
        return {prompt.key: file for prompt, file in zip(prompts, files, strict=False)}
    raise UsageError(
        f"{len(files)} recordings cannot be matched with {available} prompts.",
        str(folder),
        "Name each file by its line number from 0 (000.wav), or as the list of prompts names it.",
    )
