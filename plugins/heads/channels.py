"""A head for codebooks that start one after another: one of its ids stands for silence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wishbone.core.contract.codec import CodeSpace
from wishbone.plugins.heads.head import LinearHead, LinearHeadConfig


@dataclass
class ChannelsHeadConfig(LinearHeadConfig):
    """A table for each of several channels."""

    bias: bool = True
    """True gives every id an offset in the logits, as RWKVTTS's XY has."""


class ChannelsHead(LinearHead):
    """The linear head, whose last id has the vector zero in every codebook.

    A channel that has not begun or is over thus adds nothing to the sum of a position, as in
    RWKVTTS's XY (``padding_idx`` and ``zero_embs`` in model/llm/xy_llm.py). The row is kept in the
    table, so that weights come and go to the last bit, and takes no part.
    """

    Config = ChannelsHeadConfig

    def __init__(
        self, config: ChannelsHeadConfig, *, width: int, codes: CodeSpace, extra: int
    ) -> None:
        super().__init__(config, width=width, codes=codes, extra=extra)
        with torch.no_grad():
            self.table.weight.unflatten(0, (self.codebooks, -1))[:, -1] = 0

    def embed(self, ids: Tensor) -> Tensor:
        """ids [..., Q] -> [..., D]."""
        first = self.size * torch.arange(ids.shape[-1], device=ids.device)  # [Q]
        silent = (ids == self.size - 1)[..., None]  # [..., Q, 1]
        vectors = self.table(ids + first).masked_fill(silent, 0)  # [..., Q, D]
        return self.dropout(vectors.sum(-2))
