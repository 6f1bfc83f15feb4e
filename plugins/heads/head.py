"""Two heads: a plain table of codes, and one that shares the digits codes are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wishbone.core.contract.codec import CodeSpace
from wishbone.core.contract.errors import ConfigError
from wishbone.core.contract.head import Head
from wishbone.core.contract.part import Dropout, OptionalSize
from wishbone.plugins.engines import choose
from wishbone.plugins.heads.engine import FastLayers, Layer, native_layers

ENGINES = {"native": lambda head, weights: native_layers(head.layers(weights))}
"""The way to compute logits faster than plain PyTorch, in C++."""
TABLE_STD = 0.02
"""Standard deviation of a new code's vector; as the other tables of a ``SpeechLM``."""


class _TableHead(Head):
    """A head whose logits are linear layers one after another, which engines make fast."""

    _engine: FastLayers | None = None

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """As in ``Head``; "native" is for few positions on the CPU."""
        self._engine, used = choose(self, engine, weights, ENGINES)
        return used

    def layers(self, weights: str) -> list[Layer]:
        """Return the layers from hidden vectors to logits [Q * X], stored as ``weights``."""
        raise NotImplementedError

    def _fast(self, hidden: Tensor) -> Tensor | None:
        """Logits [..., Q, X] by the chosen engine, or None where it does not apply."""
        engine = self._engine
        if engine is None or self.training or not engine.takes(hidden):
            return None
        return engine(hidden).unflatten(-1, (self.codebooks, self.size))


@dataclass
class LinearHeadConfig:
    """The plain head."""

    bias: bool = False
    """True gives every id an offset in the logits, as CosyVoice2 has."""
    dropout: Dropout = 0.0
    """Probability of dropping a number of a code's vector in training."""


class LinearHead(_TableHead):
    """A row for every id on the way in, another on the way out."""

    Config = LinearHeadConfig

    def __init__(
        self, config: LinearHeadConfig, *, width: int, codes: CodeSpace, extra: int
    ) -> None:
        super().__init__()
        self.config = config
        self.codebooks = codes.codebooks
        self.size = codes.size + extra
        self.table = nn.Embedding(self.codebooks * self.size, width)
        self.output = nn.Linear(width, self.codebooks * self.size, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.table.weight, std=TABLE_STD)
        nn.init.normal_(self.output.weight, std=TABLE_STD)
        if config.bias:
            nn.init.zeros_(self.output.bias)

    def embed(self, ids: Tensor) -> Tensor:
        """ids [..., Q] -> [..., D]."""
        return self.dropout(self.table(_offset(ids, self.size)).sum(-2))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., Q, X]."""
        fast = self._fast(hidden)
        if fast is not None:
            return fast
        return self.output(hidden).unflatten(-1, (self.codebooks, self.size))

    def layers(self, weights: str) -> list[Layer]:
        """Return the output table."""
        return [(self.output.weight, self.output.bias, weights)]


@dataclass
class FSQHeadConfig:
    """The head of shared digits."""

    rank: OptionalSize = 32
    """Dimensions in which a code may differ from what its digits say."""
    dropout: Dropout = 0.0
    """Probability of dropping a number of a code's vector in training."""


class FSQHead(_TableHead):
    """A code is its digits plus a small part that no other code shares.

    In an FSQ codec (arXiv:2309.15505) a code is a number written in digits, and codes that share
    digits sound alike. So an id's features are P numbers: one mark per digit value (the value it
    has), one mark per extra id (itself), and ``rank`` learned numbers of this id alone, at first
    zero. A vector is features x [P, D]; the logits are scores [P] x features. A code seen once in
    training thus starts from what thousands of others taught its digits.
    """

    Config = FSQHeadConfig

    def __init__(self, config: FSQHeadConfig, *, width: int, codes: CodeSpace, extra: int) -> None:
        super().__init__()
        _check_levels(codes)
        self.config = config
        self.levels, self.codebooks = tuple(codes.levels), codes.codebooks
        self.codes, self.size = codes.size, codes.size + extra
        self.marks = sum(self.levels) + extra
        ids, features = self.codebooks * self.size, self.codebooks * (self.marks + config.rank)
        self.table = nn.Embedding(features, width)
        self.own = nn.Embedding(ids, config.rank)
        self.output = nn.Linear(width, features)
        self.output_own = nn.Embedding(ids, config.rank)
        self.dropout = nn.Dropout(config.dropout)
        self._marks: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw sums of digits as wide as a row of the plain table; parts of single ids are 0."""
        shared = TABLE_STD / math.sqrt(len(self.levels))
        free = 1 / math.sqrt(self.output.in_features)
        digits = sum(self.levels)
        for matrix in (self.table.weight, self.output.weight):
            rows = matrix.detach().unflatten(0, (self.codebooks, -1))
            nn.init.normal_(rows[:, :digits], std=shared)
            nn.init.normal_(rows[:, digits : self.marks], std=TABLE_STD)
            nn.init.normal_(rows[:, self.marks :], std=free)
        nn.init.zeros_(self.output.bias)
        nn.init.zeros_(self.own.weight)
        nn.init.zeros_(self.output_own.weight)

    def embed(self, ids: Tensor) -> Tensor:
        """ids [..., Q] -> [..., D]."""
        free = self.own(_offset(ids, self.size))  # [..., Q, rank]
        features = torch.cat((self._digit_marks(free)[ids], free), dim=-1)  # [..., Q, P]
        return self.dropout(features.flatten(-2) @ self.table.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., Q, X]."""
        fast = self._fast(hidden)
        if fast is not None:
            return fast
        scores = self.output(hidden).unflatten(-1, (self.codebooks, -1))  # [..., Q, P]
        logits = [F.linear(scores[..., q, :], x) for q, x in enumerate(self._features())]
        return logits[0].unsqueeze(-2) if self.codebooks == 1 else torch.stack(logits, dim=-2)

    def layers(self, weights: str) -> list[Layer]:
        """Return scores of features, then codes from features, which are few and stay fine."""
        fine = "float32" if weights == "float32" else "bfloat16"
        return [
            (self.output.weight, self.output.bias, weights),
            (torch.block_diag(*self._features()), None, fine),
        ]

    def _features(self) -> list[Tensor]:
        """Features of every id on the way out, [X, P] for each codebook."""
        free = self.output_own.weight.unflatten(0, (self.codebooks, self.size))  # [Q, X, rank]
        marks = self._digit_marks(free)  # [X, marks]
        return [torch.cat((marks, free[q]), dim=-1) for q in range(self.codebooks)]

    def _digit_marks(self, like: Tensor) -> Tensor:
        """[X, marks] of ones and zeros. Cached, yet no buffer: a meta build must not lose it."""
        marks = self._marks
        if marks is None or marks.device != like.device or marks.dtype != like.dtype:
            marks = self._marks = self._make_marks(like)
        return marks

    def _make_marks(self, like: Tensor) -> Tensor:
        marks = like.new_zeros(self.size, self.marks, requires_grad=False)  # [X, marks]
        ids = torch.arange(self.codes, device=like.device)
        start, stride = 0, 1
        for levels in self.levels:
            marks[ids, start + ids // stride % levels] = 1
            start, stride = start + levels, stride * levels
        extra = torch.arange(self.size - self.codes, device=like.device)
        marks[self.codes + extra, start + extra] = 1
        return marks


def _offset(ids: Tensor, size: int) -> Tensor:
    """ids [..., Q] -> rows of Q tables of ``size`` rows stacked."""
    return ids + size * torch.arange(ids.shape[-1], device=ids.device)


def _check_levels(codes: CodeSpace) -> None:
    combinations = list(accumulate(codes.levels, mul))[-1:]
    if combinations != [codes.size]:
        raise ConfigError(
            f"the codec has {codes.size} codes, but its digits have the levels {codes.levels}",
            where="head.name: fsq",
            do="use the linear head, or a codec whose levels multiply to its number of codes",
        )
