"""Figures of a corpus, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wishbone.core.data.parquet import NUMBER, TEXT, read_schema, read_table
from wishbone.core.data.tokens import METADATA, parquet_files, read_tokens


def inspect(folder: str | Path) -> dict[str, Any]:
    """Figures of a folder of token data or of audio data."""
    files = parquet_files(folder)
    schema = read_schema(files[0])
    if METADATA in (schema.metadata or {}):
        return _tokens(folder)
    tables = [read_table(file, {"seconds": NUMBER, "text": TEXT}) for file in files]
    seconds = np.concatenate([np.asarray(table.column("seconds")) for table in tables])
    texts = [text for table in tables for text in table.column("text").to_pylist()]
    return {
        "kind": "audio data",
        "files": len(files),
        "utterances": len(texts),
        "different texts": len(set(texts)),
        "hours": round(float(seconds.sum()) / 3600, 3),
        "seconds, shortest and longest": [
            round(float(seconds.min(initial=np.inf)), 2),
            round(float(seconds.max(initial=0)), 2),
        ],
    }


def _tokens(folder: str | Path) -> dict[str, Any]:
    corpus = read_tokens(folder)
    codes = corpus.codes.values.reshape(-1, corpus.codebooks)
    counts = np.bincount(codes[:, 0]) if len(codes) else np.zeros(1)
    share = counts[counts > 0] / max(1, counts.sum())
    positions = corpus.positions()
    return {
        "kind": "token data",
        "made with": corpus.about,
        "files": len(corpus.files),
        "utterances": len(corpus),
        "different texts": len(set(corpus.texts)),
        "hours": round(float(corpus.seconds.sum()) / 3600, 3),
        "ids of text": int(corpus.text.lengths().sum()),
        "code frames": len(codes),
        "different codes (first codebook)": int((counts > 0).sum()),
        "entropy of a code, nats": round(float(-(share * np.log(share)).sum()), 3),
        "with ends of words": int((corpus.word_ends.lengths() > 0).sum()),
        "positions, mean and longest": [
            round(float(positions.mean()), 1) if len(corpus) else 0,
            int(positions.max(initial=0)),
        ],
    }
