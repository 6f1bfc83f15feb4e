"""Does a model listen to its text? Its loss on a sentence, with that text and with another.

A recurrent backbone that reads all text before the first code can learn to speak fluently and
ignore what it read (LiuBai's report names the effect). Teacher forcing hides it: the loss looks
well either way. The binding gap does not: the mean cross entropy of the codes when the text is
swapped for that of another sentence, minus when it is not, in nats per code. Zero means deaf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch

from wishbone.core.config import build_layout, build_model
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.errors import DataError
from wishbone.core.evaluate.statistics import Interval, bootstrap
from wishbone.core.interfaces import Layout, Sample
from wishbone.core.model import SpeechLM
from wishbone.core.train.batches import collate

BATCH = 8
"""Utterances at once."""


@dataclass(frozen=True)
class Binding:
    """Losses in nats per code, and the gap with its 95 % interval over utterances."""

    own: float
    """With the text that was spoken."""
    other: float
    """With another sentence's text."""
    gap: Interval
    utterances: int


def binding(
    config: Mapping[str, Any], corpus: TokenCorpus, limit: int = 200, seed: int = 0
) -> Binding:
    """The binding gap of a system's language model on token data.

    Raises ``DataError`` when no two sentences of the data have the same number of words.
    """
    model = build_model(config).eval()
    _, layout, codes = build_layout(config)
    rows = np.random.default_rng(seed).permutation(len(corpus))
    pairs = exchange(corpus, [int(row) for row in rows[:limit]])
    own, other = [], []
    for begin in range(0, len(pairs), BATCH):
        batch = pairs[begin : begin + BATCH]
        own += losses(model, layout, codes.size, [mine for mine, _ in batch], seed)
        other += losses(model, layout, codes.size, [theirs for _, theirs in batch], seed)
    difference = np.array(other) - np.array(own)
    return Binding(
        float(np.mean(own)), float(np.mean(other)), bootstrap(difference, seed=seed), len(pairs)
    )


def exchange(corpus: TokenCorpus, rows: Sequence[int]) -> list[tuple[Sample, Sample]]:
    """Each utterance as it is, and with the text of another one that fits its word marks.

    The other text has the same number of words and, among those, the nearest number of ids, so
    that the loss tells the words apart and not the lengths. Utterances without a match are left
    out.
    """
    samples = {row: corpus.sample(row) for row in rows}
    pairs = []
    for row, sample in samples.items():
        fitting = [
            other
            for key, other in samples.items()
            if key != row
            and len(other.word_ends) == len(sample.word_ends)
            and list(other.text) != list(sample.text)
        ]
        if fitting:
            near = min(fitting, key=lambda other: abs(len(other.text) - len(sample.text)))
            pairs.append((sample, replace(sample, text=near.text)))
    if not pairs:
        raise DataError(
            f"None of {len(rows)} utterances has another with the same number of words.",
            "the token data",
            "Give more data, or raise --limit.",
        )
    return pairs


@torch.inference_mode()
def losses(
    model: SpeechLM, layout: Layout, size: int, samples: Sequence[Sample], seed: int
) -> list[float]:
    """Mean cross entropy of each sample's codes (not of the layout's own marks), in nats."""
    laid = [layout.train(sample, Random(f"{seed}-{i}")) for i, sample in enumerate(samples)]
    batch = collate(laid, range(len(laid)))
    each = model.losses(batch.table, batch.ids, batch.targets, batch.mask)
    spoken = (batch.targets >= 0) & (batch.targets < size) & batch.mask[..., None]
    sums = (each * spoken).sum(dim=(1, 2))
    return (sums / spoken.sum(dim=(1, 2)).clamp_min(1)).tolist()
