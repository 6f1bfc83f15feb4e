"""The plan of utterances for every step, and the padded tensors that are made of them.

Everything follows from the seed and the number of the step: to resume is to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from wishbone.core.contract.errors import DataError
from wishbone.core.contract.layout import IGNORE, Layout, Positions
from wishbone.core.data.tokens import TokenCorpus

POOL = 50
"""Batches whose utterances are sorted by length together: more pad less and mix less."""


@dataclass(frozen=True)
class Batch:
    """Laid-out utterances, padded to the longest."""

    table: Tensor  # [B, T]
    ids: Tensor  # [B, T, Q]
    targets: Tensor  # [B, T, Q]
    mask: Tensor  # [B, T]
    rows: tuple[int, ...]
    """Indices of the utterances in the corpus."""

    def without_targets(self) -> Batch:
        """The same without targets: it takes part and teaches nothing."""
        return replace(self, targets=torch.full_like(self.targets, IGNORE))

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        parts = (self.table, self.ids, self.targets, self.mask)
        return Batch(*(part.to(device, non_blocking=True) for part in parts), self.rows)


class BatchPlan:
    """Batches of about equal length under a budget of padded positions, shuffled every epoch.

    The plan is that of all processes together, so a run on two processes with a budget of P each
    sees the same batches in the same order as a run on one with 2 P.
    """

    def __init__(
        self, lengths: np.ndarray, budget: int, seed: int, names: Sequence[str] = ()
    ) -> None:
        """``names`` of the utterances are for errors. Raises ``DataError`` for one too long."""
        self.lengths = lengths
        self.budget = budget
        self.seed = seed
        self._first = [0]  # step at which each epoch begins
        self._epochs: dict[int, list[np.ndarray]] = {}
        too_long = np.flatnonzero(lengths > budget)
        if not len(lengths) or len(too_long):
            longest = int(lengths.max(initial=0))
            named = ", ".join(names[row] for row in too_long[:8]) if len(names) else ""
            raise DataError(
                f"The longest of {len(lengths)} utterances takes {longest} positions,"
                f" a step has {budget}; {len(too_long)} do not fit{f': {named}' if named else ''}.",
                "the batch plan",
                f"Raise batch_positions to {longest}, or take these out of the data.",
            )

    def rows(self, step: int) -> tuple[int, np.ndarray]:
        """The epoch of a step (counted from 0) and the utterances in it."""
        epoch = 0
        while True:
            if epoch + 1 == len(self._first):
                self._first.append(self._first[epoch] + len(self.epoch(epoch)))
            if step < self._first[epoch + 1]:
                return epoch, self.epoch(epoch)[step - self._first[epoch]]
            epoch += 1

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch in order, each an array of rows."""
        if epoch not in self._epochs:
            self._epochs = {epoch: self._plan(epoch)}
        return self._epochs[epoch]

    def _plan(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self.lengths))
        size = max(1, POOL * self.budget // max(1, int(self.lengths.mean())))
        batches: list[np.ndarray] = []
        for begin in range(0, len(order), size):
            pool = order[begin : begin + size]
            batches += self._cut(pool[np.argsort(self.lengths[pool], kind="stable")])
        return [batches[i] for i in random.permutation(len(batches))]

    def _cut(self, pool: np.ndarray) -> list[np.ndarray]:
        """Utterances of rising length into batches that stay within the budget."""
        # numbers of Python: one by one, they are read in a tenth of the time
        lengths, budget = self.lengths[pool].tolist(), self.budget
        batches, begin = [], 0
        for end in range(1, len(pool) + 1):
            if end == len(pool) or (end + 1 - begin) * lengths[end] > budget:
                batches.append(pool[begin:end])
                begin = end
        return batches


def lay_out(corpus: TokenCorpus, layout: Layout, row: int, seed: int, epoch: int) -> Positions:
    """Lay out one utterance; the layout's random choices follow from seed, epoch and row alone."""
    return layout.train(corpus.sample(row), Random(f"{seed}-{epoch}-{row}"))


def collate(sequences: Sequence[Positions], rows: Sequence[int]) -> Batch:
    """Pad on the right to the longest. Padding reads row 0 of the head's table and is masked."""
    longest = max(len(sequence.table) for sequence in sequences)
    count, books = len(sequences), sequences[0].ids.shape[-1]
    table = np.zeros((count, longest), np.int64)  # [B, T]
    ids = np.zeros((count, longest, books), np.int64)  # [B, T, Q]
    targets = np.full((count, longest, books), IGNORE, np.int64)  # [B, T, Q]
    mask = np.zeros((count, longest), bool)  # [B, T]
    for index, sequence in enumerate(sequences):
        length = len(sequence.table)
        table[index, :length] = sequence.table.numpy()
        ids[index, :length] = sequence.ids.numpy()
        targets[index, :length] = sequence.targets.numpy()
        mask[index, :length] = True
    parts = (torch.from_numpy(part) for part in (table, ids, targets, mask))
    return Batch(*parts, tuple(int(row) for row in rows))


def batches_by_length(sequences: Sequence[Positions], budget: int) -> list[Batch]:
    """All sequences, shortest first, in batches of at most ``budget`` padded positions."""
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row].table))
    batches: list[Batch] = []
    begin = 0
    for end in range(1, len(order) + 1):
        last = end == len(order)
        if last or (end + 1 - begin) * len(sequences[order[end]].table) > budget:
            rows = order[begin:end]
            batches.append(collate([sequences[row] for row in rows], rows))
            begin = end
    return batches


def split_held_out(corpus: TokenCorpus, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to keep out: whole texts, chosen by a hash of the text."""
    hashes = corpus.hashes_of_texts().astype(np.float64)  # [utterances]
    held_out = hashes / 2.0**64 < share  # [utterances]
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def without_texts(corpus: TokenCorpus, other: TokenCorpus) -> np.ndarray:
    """Rows of ``corpus`` whose text is not a text of ``other``."""
    excluded = set(other.texts)
    equal = np.isin(corpus.hashes_of_texts(), other.hashes_of_texts())  # [utterances]
    # texts are compared only where their hashes are equal: few, and two may share a hash
    for row in np.flatnonzero(equal):
        equal[row] = corpus.texts[row] in excluded
    return np.flatnonzero(~equal)
