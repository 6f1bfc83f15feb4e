"""Several utterances as one, so that a model hears what comes after a sentence end."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from wishbone.core.contract.errors import UsageError
from wishbone.core.data.shards import Report, ShardReport, run_shards
from wishbone.core.data.tokens import TokenCorpus, arrow, parquet_files, read_tokens, write_tokens


def join(
    source: str | Path,
    out: str | Path,
    pairs: int,
    seed: int = 0,
    prompt: bool = False,
    utterances: int = 2,
    in_order: bool = False,
) -> Report:
    """``pairs`` random pairs from every file of ``source``, no utterance twice, into ``out``.

    With ``prompt`` the first of a pair, of the same speaker, is given in training and only the
    second is to be said.
    With more ``utterances`` each that many are joined, all of one speaker, and with ``in_order``
    as they follow each other in the file. Raises ``UsageError`` for numbers that make no sense.
    """
    if utterances < 2 or (prompt and utterances != 2):
        raise UsageError(
            f"{utterances} utterances cannot be joined{' behind a prompt' if prompt else ''}.",
            "wishbone data join",
            "Write 2 or more; with --prompt exactly 2.",
        )
    how = (prompt, utterances, in_order)
    jobs = [
        (file.stem, (str(file), str(out), pairs, seed + number, *how))
        for number, file in enumerate(parquet_files(source))
    ]
    settings: dict[str, Any] = {"joined": True, "pairs": pairs, "seed": seed}
    settings |= {"prompt": True} if prompt else {}
    settings |= {"utterances": utterances, "in_order": in_order} if how[1:] != (2, False) else {}
    return run_shards(join_file, jobs, Path(out), settings)


def join_file(
    file: str,
    out: str,
    pairs: int,
    seed: int,
    prompt: bool = False,
    utterances: int = 2,
    in_order: bool = False,
) -> ShardReport:
    """What is joined of one file into ``out`` under the same name."""
    corpus = read_tokens(file)
    # what is heard before an utterance is the same voice, or it would be no prompt
    if utterances == 2 and not in_order and not prompt:
        count = min(pairs, len(corpus) // 2)
        picked = Random(seed).sample(range(len(corpus)), 2 * count)
        groups = [("", picked[at : at + 2]) for at in range(0, 2 * count, 2)]
    else:
        groups = _groups(file, len(corpus), utterances, seed, in_order)[:pairs]
    report = ShardReport(Path(file).stem, kept=len(groups))
    rows = []
    for speaker, group in groups:
        row = _joined(corpus, group, speaker)
        if prompt:
            first = group[0]
            words = len(corpus.word_ends[first]) if len(row["word_ends"]) else 0
            frames = len(corpus.codes[first]) // corpus.codebooks
            row["prompt"] = [len(corpus.text[first]), frames, words]
        rows.append(row)
        report.seconds += row["seconds"]
    write_tokens(Path(out) / f"{report.name}.parquet", rows, corpus.about)
    return report


def _groups(
    file: str, count: int, utterances: int, seed: int, in_order: bool
) -> list[tuple[str, list[int]]]:
    """Speaker and rows of all that can be joined, no row twice."""
    parquet = arrow().parquet
    known = "speaker" in parquet.read_schema(file).names
    speakers = [""] * count
    if known:
        column = parquet.read_table(file, columns=["speaker"]).column("speaker")
        speakers = [name or "" for name in column.to_pylist()]
    random, rows = Random(seed), list(range(count))
    if not in_order:
        random.shuffle(rows)
    of: dict[str, list[int]] = {}
    for row in rows:
        of.setdefault(speakers[row], []).append(row)
    groups = [
        (speaker, own[at : at + utterances])
        for speaker, own in of.items()
        for at in range(0, len(own) - utterances + 1, utterances)
    ]
    random.shuffle(groups)
    return groups


def _joined(corpus: TokenCorpus, rows: list[int], speaker: str) -> dict[str, Any]:
    """Utterances as one."""
    frames = [len(corpus.codes[row]) // corpus.codebooks for row in rows]
    before = np.cumsum([0, *frames[:-1]])
    ends = [begin + corpus.word_ends[row] for begin, row in zip(before, rows, strict=True)]
    # What has the ends of some words alone could not be laid out by words.
    known = all(len(corpus.word_ends[row]) for row in rows)
    return {
        "id": "+".join(corpus.ids[row] for row in rows),
        "text": " ".join(corpus.texts[row] for row in rows),
        "text_ids": np.concatenate([corpus.text[row] for row in rows]),
        "codes": np.concatenate([corpus.codes[row] for row in rows]),
        "word_ends": np.concatenate(ends) if known else [],
        "seconds": float(sum(corpus.seconds[row] for row in rows)),
        "speaker": speaker,
    }
