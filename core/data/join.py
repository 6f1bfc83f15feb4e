"""Pairs of utterances as one, so that a model hears what comes after a sentence end."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from wishbone.core.data.shards import Report, ShardReport, run_shards
from wishbone.core.data.tokens import parquet_files, read_tokens, write_tokens


def join(
    source: str | Path, out: str | Path, pairs: int, seed: int = 0, prompt: bool = False
) -> Report:
    """``pairs`` random pairs from every file of ``source``, no utterance twice, into ``out``.

    With ``prompt`` the first of a pair is given in training and only the second is to be said.
    """
    jobs = [
        (file.stem, (str(file), str(out), pairs, seed + number, prompt))
        for number, file in enumerate(parquet_files(source))
    ]
    settings = {"joined": True, "pairs": pairs, "seed": seed} | ({"prompt": True} if prompt else {})
    return run_shards(join_file, jobs, Path(out), settings)


def join_file(file: str, out: str, pairs: int, seed: int, prompt: bool = False) -> ShardReport:
    """The pairs of one file into ``out`` under the same name."""
    corpus = read_tokens(file)
    count = min(pairs, len(corpus) // 2)
    picked = Random(seed).sample(range(len(corpus)), 2 * count)
    report = ShardReport(Path(file).stem, kept=count)
    rows: list[dict[str, Any]] = []
    for left, right in zip(picked[::2], picked[1::2], strict=True):
        frames = len(corpus.codes[left]) // corpus.codebooks
        ends = [corpus.word_ends[left], frames + corpus.word_ends[right]]
        # A pair with the ends of one half alone could not be laid out by words.
        known = all(len(corpus.word_ends[row]) for row in (left, right))
        row = {
            "id": f"{corpus.ids[left]}+{corpus.ids[right]}",
            "text": f"{corpus.texts[left]} {corpus.texts[right]}",
            "text_ids": np.concatenate([corpus.text[left], corpus.text[right]]),
            "codes": np.concatenate([corpus.codes[left], corpus.codes[right]]),
            "word_ends": np.concatenate(ends) if known else [],
            "seconds": float(corpus.seconds[left] + corpus.seconds[right]),
            "speaker": "",
        }
        if prompt:
            words = len(corpus.word_ends[left]) if known else 0
            row["prompt"] = [len(corpus.text[left]), frames, words]
        rows.append(row)
        report.seconds += row["seconds"]
    write_tokens(Path(out) / f"{report.name}.parquet", rows, corpus.about)
    return report
