"""Dependence of a model on its text. Its loss on a sentence, with that text and with another.

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

from wishbone.core.contract.errors import DataError
from wishbone.core.contract.extensions.metric import HeldOut, UtteranceLosses
from wishbone.core.contract.layout import Layout, Sample
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.evaluate.statistics.paired import Interval, bootstrap
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.build import build_layout, build_model
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
    measured = held_out(config, corpus, limit, seed).losses
    same, other = np.array(measured.codes), np.array(measured.other_text)  # [U]
    gap = bootstrap(other - same, seed=seed)
    return Binding(float(same.mean()), float(other.mean()), gap, len(same))


def held_out(
    config: Mapping[str, Any], corpus: TokenCorpus, limit: int = 200, seed: int = 0
) -> HeldOut:
    """A system's language model and its losses on utterances, the same for every system.

    Raises ``DataError`` when no two sentences of the data have the same number of words.
    """
    model = build_model(config).eval()
    _, layout, codes = build_layout(config)
    rows = np.random.default_rng(seed).permutation(len(corpus))
    pairs = exchange(corpus, [int(row) for row in rows[:limit]])
    of_codes: list[float] = []
    with_marks: list[float] = []
    other_text: list[float] = []
    for begin in range(0, len(pairs), BATCH):
        batch = pairs[begin : begin + BATCH]
        alone, every = losses(model, layout, codes.size, [sample for sample, _ in batch], seed)
        of_codes += alone
        with_marks += every
        other_text += losses(model, layout, codes.size, [other for _, other in batch], seed)[0]
    return HeldOut(
        model=model,
        layout=layout,
        samples=[sample for sample, _ in pairs],
        samples_other=[other for _, other in pairs],
        losses=UtteranceLosses(of_codes, with_marks, other_text),
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
) -> tuple[list[float], list[float]]:
    """Of each sample, in nats per code: cross entropy of its codes, and with the layout's marks.

    Every layout predicts every code of an utterance once, so the first is a mean over the same
    codes whatever the layout; what it knows of the text and of time at each of them differs.
    """
    laid = [layout.train(sample, Random(f"{seed}-{i}")) for i, sample in enumerate(samples)]
    batch = collate(laid, range(len(laid)))
    entropies = model.losses(batch.table, batch.ids, batch.targets, batch.mask)  # [B, T, Q]
    predicted = (batch.targets >= 0) & batch.mask[..., None]  # [B, T, Q]
    spoken = predicted & (batch.targets < size)  # [B, T, Q]
    count = spoken.sum(dim=(1, 2)).clamp_min(1)  # [B]
    codes = (entropies * spoken).sum(dim=(1, 2)) / count  # [B]
    with_marks = (entropies * predicted).sum(dim=(1, 2)) / count  # [B]
    return codes.tolist(), with_marks.tolist()
