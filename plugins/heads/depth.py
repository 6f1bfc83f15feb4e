"""A head whose codebooks depend on each other: a small causal model over those of one frame.

CSM (transformers, models/csm/modeling_csm.py), Moshi (arXiv:2410.00037, section 3.4.1) and others
draw the first code from the hidden vector h, then the others one after another::

    logits_0 = W_0 h
    logits_q = W_q depth(h, e_0(c_0), ..., e_{q-1}(c_{q-1}))_q          q = 1 ... Q - 1

``depth`` is a Transformer of its own, over Q positions, that forgets everything between frames;
e_q(c) is the row that the code has on the way in, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.head import Head
from wishbone.core.contract.layout import IGNORE
from wishbone.core.contract.part import Dropout, Layers, OptionalSize, Positive, Size
from wishbone.plugins.heads.head import TABLE_STD
from wishbone.plugins.transformer.backbone import Transformer, TransformerConfig


@dataclass
class DepthHeadConfig:
    """Shape of the model over the codebooks of a frame."""

    depth_width: OptionalSize = 0
    """Numbers per codebook inside it; 0 means as many as a position has."""
    depth_layers: Layers = 2
    """Number of its blocks."""
    depth_heads: Size = 4
    """Query heads."""
    depth_kv_heads: Size = 2
    """Heads of keys and values."""
    depth_ffn_width: OptionalSize = 0
    """Inner width of the feed-forward part; 0 means three times the width."""
    rope_theta: Positive = 10000.0
    """Base of the rotary frequencies."""
    norm_eps: Positive = 1e-5
    """Added to the mean square inside every RMSNorm."""
    dropout: Dropout = 0.0
    """Probability of dropping a number of a code's vector in training."""


class DepthHead(Head):
    """Codebook after codebook by a Transformer over the frame; one codebook needs none."""

    Config = DepthHeadConfig

    def __init__(
        self, config: DepthHeadConfig, *, width: int, codes: CodeSpace, extra: int
    ) -> None:
        super().__init__()
        self.config = config
        self.codebooks, self.size = codes.codebooks, codes.size + extra
        self.table = nn.Embedding(self.codebooks * self.size, width)
        self.first = nn.Linear(width, self.size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.table.weight, std=TABLE_STD)
        nn.init.normal_(self.first.weight, std=TABLE_STD)
        if self.codebooks > 1:
            inner = config.depth_width or width
            self.project = nn.Linear(width, inner, bias=False)
            self.depth = Transformer(
                TransformerConfig(
                    width=inner,
                    layers=config.depth_layers,
                    heads=config.depth_heads,
                    kv_heads=config.depth_kv_heads,
                    ffn_width=config.depth_ffn_width or 3 * inner,
                    rope_theta=config.rope_theta,
                    norm_eps=config.norm_eps,
                    qkv_bias=False,
                )
            )
            self.output = nn.Parameter(torch.empty(self.codebooks - 1, self.size, inner))
            nn.init.normal_(self.output, std=TABLE_STD)

    @classmethod
    def small_config(cls) -> DepthHeadConfig:
        """For the contract suite, which differentiates numerically."""
        return DepthHeadConfig(8, 1, depth_heads=2, depth_kv_heads=1, depth_ffn_width=12)

    def embed(self, ids: Tensor) -> Tensor:
        """ids [..., Q] -> [..., D]."""
        first = self.size * torch.arange(self.codebooks, device=ids.device)  # [Q]
        return self.dropout(self.table(ids + first).sum(-2))

    def predict(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """hidden [N, D], answers [N, Q] -> logits [N, Q, X], each after the answers before it.

        An answer that is ignored is read as the last id, which says nothing in layouts with
        several codebooks.
        """
        logits = self.first(hidden)[:, None]  # [N, 1, X]
        if self.codebooks == 1 or not len(hidden):
            return logits.expand(-1, self.codebooks, -1)
        ids = answers[:, :-1].masked_fill(answers[:, :-1] == IGNORE, self.size - 1)  # [N, Q - 1]
        first = self.size * torch.arange(self.codebooks - 1, device=ids.device)  # [Q - 1]
        x = torch.cat((hidden[:, None], self.table(ids + first)), 1)  # [N, Q, D]
        y, _ = self.depth(self.project(x))  # [N, Q, d]
        later = torch.einsum("nqd,qxd->nqx", y[:, 1:], self.output)  # [N, Q - 1, X]
        return torch.cat((logits, later), 1)  # [N, Q, X]

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., Q, X] where nothing is drawn yet.

        In the place of each code stands the mean of its codebook's vectors, by probability; exact
        for the first codebook. ``predict`` and ``sample`` know the codes.
        """
        flat = hidden.reshape(-1, hidden.shape[-1])  # [N, D]
        logits = [self.first(flat)]  # [N, X]
        if self.codebooks > 1 and len(flat):
            tables = self.table.weight.unflatten(0, (self.codebooks, self.size))  # [Q, X, D]
            _, state = self.depth(self.project(flat)[:, None])
            for book in range(1, self.codebooks):
                vector = logits[-1].softmax(-1) @ tables[book - 1]  # [N, D]
                y, state = self.depth(self.project(vector)[:, None], state)  # [N, 1, d]
                logits.append(F.linear(y[:, 0], self.output[book - 1]))  # [N, X]
        elif self.codebooks > 1:
            logits = logits * self.codebooks
        return torch.stack(logits, 1).reshape(*hidden.shape[:-1], self.codebooks, self.size)

    def sample(self, hidden: Tensor, pick: Callable[[Tensor, int], int]) -> tuple[int, ...]:
        """hidden [D] -> one id for each codebook, each drawn when those before it are known."""
        ids = [pick(self.first(hidden), 0)]
        if self.codebooks == 1:
            return tuple(ids)
        state = self.depth.init_state(1)
        self.depth.step_(self.project(hidden)[None, None], state)
        for book in range(1, self.codebooks):
            row = torch.tensor(ids[-1] + (book - 1) * self.size, device=hidden.device)  # []
            y = self.depth.step_(self.project(self.table(row))[None, None], state)  # [1, 1, d]
            ids.append(pick(F.linear(y[0, 0], self.output[book - 1]), book))  # of [X]
        return tuple(ids)
