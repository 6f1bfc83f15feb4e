"""The price of storing a state in fewer bits: ``wishbone evaluate state-precision``.

Utterances go through the language model one position at a time, as in decoding, with what they
really said fed back. After each step the named parts of the state are rounded, and the loss is
compared with that of the state as it is, utterance by utterance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.data.tokens import TokenCorpus
from wishbone.core.evaluate.statistics.paired import bootstrap
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.build import build_layout, build_model
from wishbone.core.train.batches import Batch, collate

KINDS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}


def compare(config: Mapping[str, Any], corpus: TokenCorpus, limit: int, part: str) -> Iterator[str]:
    """Yield a line with the loss for every type of storage, and how much it adds.

    ``part`` is the ending of the names of the state that are rounded, ``limit`` the number of
    utterances, drawn by chance.
    """
    rows = np.random.default_rng(0).permutation(len(corpus))[:limit]
    _, layout, codes = build_layout(config)
    examples = [layout.train(corpus.sample(int(row)), Random(f"0-{row}")) for row in rows]
    batch = collate(examples, range(len(examples)))
    model = build_model(config).eval()
    yield f"{len(examples)} utterances, nats per code; added: mean and 95 % interval"
    exact: np.ndarray | None = None
    for name, kind in KINDS.items():
        result = losses(model, batch, codes.size, {part: kind})
        exact = result if exact is None else exact
        added = bootstrap(result - exact, seed=0)
        yield (
            f"{name:10} {result.mean():.5f}  added {added.estimate:+.5f}"
            f" ({added.low:+.5f} to {added.high:+.5f})"
        )


@torch.inference_mode()
def losses(
    model: SpeechLM, batch: Batch, size: int, narrow: Mapping[str, torch.dtype]
) -> np.ndarray:
    """Mean cross entropy of each utterance's codes in nats, [B], stepped with a rounded state."""
    vectors = model.embed(batch.table, batch.ids)  # [B, T, D]
    spoken = (batch.targets >= 0) & (batch.targets < size) & batch.mask[..., None]  # [B, T, Q]
    state = model.backbone.init_state(len(vectors))
    sums = torch.zeros(len(vectors), dtype=torch.float64)  # [B]
    for position in range(vectors.shape[1]):
        hidden = model.backbone.step_(vectors[:, position : position + 1], state)[:, 0]  # [B, D]
        round_(state, narrow)
        counted = spoken[:, position]  # [B, Q]
        rows = counted.any(dim=1).nonzero()[:, 0]  # [N]
        if len(rows):
            targets = batch.targets[rows, position]  # [N, Q]
            sums[rows] += _entropy(model, hidden[rows], targets, counted[rows])  # [N]
    return (sums / spoken.sum(dim=(1, 2)).clamp_min(1)).numpy()  # [B]


def round_(state: State, narrow: Mapping[str, torch.dtype]) -> None:
    """Round parts by the endings of their names, as ``Pool`` stores them."""
    for name, part in state.items():
        for ending, kind in narrow.items():
            if name.endswith(ending) and kind != part.dtype:
                state[name] = part.to(kind).to(part.dtype)


def _entropy(model: SpeechLM, hidden: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """hidden [N, D], targets and counted [N, Q] -> sums over codebooks [N]."""
    logits = model.head(hidden).float().flatten(0, 1)  # [N * Q, V]
    classes = targets.clamp_min(0).flatten()  # [N * Q]
    entropies = F.cross_entropy(logits, classes, reduction="none").view_as(targets)  # [N, Q]
    return (entropies * counted).sum(dim=1).double()  # [N]
