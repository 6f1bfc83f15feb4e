"""Several utterances as one, so that a model learns to go on after the end of a sentence."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from wishbone.core.contract.errors import UsageError
from wishbone.core.data.parquet import TEXT, read_table
from wishbone.core.data.shards import Report, ShardReport, run_shards
from wishbone.core.data.tokens import TokenCorpus, parquet_files, read_tokens, write_tokens


def join(
    source: str | Path,
    out: str | Path,
    pairs: int,
    seed: int = 0,
    prompt: bool = False,
    utterances: int = 2,
    in_order: bool = False,
) -> Report:
    """Write ``pairs`` random pairs from every file of ``source``, no utterance twice, into ``out``.

    With ``prompt`` the first of a pair, of the same speaker, is the prompt and only the second is
    to be spoken. With more than two ``utterances`` that many are joined, all of one speaker, and
    with ``in_order`` as they follow each other in the file. Raises ``UsageError`` for numbers that
    make no sense.
    """
    if utterances < 2 or (prompt and utterances != 2):
        raise UsageError(
            f"{utterances} utterances cannot be joined{' behind a prompt' if prompt else ''}.",
            "wishbone data join",
            "Write 2 or more; with --prompt exactly 2.",
        )
    options = (prompt, utterances, in_order)
    jobs = [
        (file.stem, (str(file), str(out), pairs, seed + number, *options))
        for number, file in enumerate(parquet_files(source))
    ]
    settings: dict[str, Any] = {"joined": True, "pairs": pairs, "seed": seed}
    settings |= {"prompt": True} if prompt else {}
    if options[1:] != (2, False):
        settings |= {"utterances": utterances, "in_order": in_order}
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
    """Join utterances of one file into a file of the same name in ``out``."""
    corpus = read_tokens(file)
    # a prompt is of the same speaker as the utterance behind it; other pairs need not be
    if utterances == 2 and not in_order and not prompt:
        count = min(pairs, len(corpus) // 2)
        sample = Random(seed).sample(range(len(corpus)), 2 * count)
        groups = [("", sample[at : at + 2]) for at in range(0, 2 * count, 2)]
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
    speakers = [""] * count
    table = read_table(file, {}, {"speaker": TEXT})
    if "speaker" in table.column_names:
        speakers = [name or "" for name in table.column("speaker").to_pylist()]
    random, rows = Random(seed), list(range(count))
    if not in_order:
        random.shuffle(rows)
    by_speaker: dict[str, list[int]] = {}
    for row in rows:
        by_speaker.setdefault(speakers[row], []).append(row)
    groups = [
        (speaker, members[at : at + utterances])
        for speaker, members in by_speaker.items()
        for at in range(0, len(members) - utterances + 1, utterances)
    ]
    random.shuffle(groups)
    return groups


def _joined(corpus: TokenCorpus, rows: list[int], speaker: str) -> dict[str, Any]:
    """One row of token data from several utterances."""
    frames = [len(corpus.codes[row]) // corpus.codebooks for row in rows]
    before = np.cumsum([0, *frames[:-1]])
    ends = [begin + corpus.word_ends[row] for begin, row in zip(before, rows, strict=True)]
    # an utterance with the ends of only some words could not be laid out by words
    complete = all(len(corpus.word_ends[row]) for row in rows)
    return {
        "id": "+".join(corpus.ids[row] for row in rows),
        "text": " ".join(corpus.texts[row] for row in rows),
        "text_ids": np.concatenate([corpus.text[row] for row in rows]),
        "codes": np.concatenate([corpus.codes[row] for row in rows]),
        "word_ends": np.concatenate(ends) if complete else [],
        "seconds": float(sum(corpus.seconds[row] for row in rows)),
        "speaker": speaker,
    }
