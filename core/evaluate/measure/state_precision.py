"""The price of storing a state in fewer bits.

``python -m wishbone.core.evaluate.measure.state_precision SYSTEM DATA`` prints it.

Utterances go through the language model one position at a time, as in decoding, with what they
really said fed back. After each step the named parts of the state are rounded, and the loss is
compared with that of the state as it is, utterance by utterance.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.backbone import State
from wishbone.core.data.tokens import read_tokens
from wishbone.core.evaluate.statistics.paired import bootstrap
from wishbone.core.model.speech_lm import SpeechLM
from wishbone.core.system.build import build_layout, build_model
from wishbone.core.system.spec import read
from wishbone.core.train.batches import Batch, collate

KINDS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}


def main() -> None:
    """Print the loss for every type of storage, and the difference that it makes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", help="a system's name or YAML file")
    parser.add_argument("data", type=Path, nargs="+", help="files or folders of token data")
    parser.add_argument("--limit", type=int, default=100, help="utterances (100)")
    parser.add_argument("--part", default=".wkv", help="ending of the names to round (.wkv)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = read(options.system)
    corpus = read_tokens(options.data)
    rows = np.random.default_rng(0).permutation(len(corpus))[: options.limit]
    _, layout, codes = build_layout(config)
    laid = [layout.train(corpus.sample(int(row)), Random(f"0-{row}")) for row in rows]
    batch = collate(laid, range(len(laid)))
    model = build_model(config).eval()
    print(f"{len(laid)} utterances, nats per code; added: mean and 95 % interval")
    plain = None
    for name, kind in KINDS.items():
        rounded = losses(model, batch, codes.size, {options.part: kind})  # [U]
        plain = rounded if plain is None else plain
        added = bootstrap(rounded - plain, seed=0)
        print(
            f"{name:10} {rounded.mean():.5f}  added {added.estimate:+.5f}"
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


if __name__ == "__main__":
    main()
