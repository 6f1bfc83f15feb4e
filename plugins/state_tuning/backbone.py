"""A backbone that begins with a learned state; README.md has the equation.

RWKV-PEFT (JL-er/RWKV-PEFT) calls it state tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import Backbone, Caps, State, require_caps
from wishbone.core.contract.engines import eager_only
from wishbone.core.contract.errors import CapabilityError, ConfigError
from wishbone.core.contract.part import NonNegative, OptionalSize, Positive, Share
from wishbone.core.model.wrapper import Wrapper, build_base, count_base, trainable
from wishbone.plugins.state_tuning.upscaling import upscale, upscaled

MATRIX = 4
"""Axes of a tuned part: batch, heads, rows, columns; shifts and convolutions have fewer."""


class Dense(nn.Module):
    """One learned part of a state, number by number; zero at first."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.whole = nn.Parameter(torch.zeros(shape))  # [H, V, K] or [D]

    def forward(self) -> Tensor:
        """Return the part without batch, [H, V, K] or [D]."""
        return self.whole  # [H, V, K] or [D]


class LowRank(nn.Module):
    """One learned matrix per head as a product of two thin ones, zero at first.

    As in Lina-Speech's initial-state tuning (theodorblackbird/lina-speech): a sum of R outer
    products. Rows begin at zero and columns at random, so that the product is zero and its
    gradient is not.
    """

    def __init__(self, shape: tuple[int, ...], rank: int) -> None:
        super().__init__()
        heads, rows, columns = shape
        self.rows = nn.Parameter(torch.zeros(heads, rows, rank))  # [H, V, r]
        self.columns = nn.Parameter(torch.randn(heads, rank, columns) / rank**0.5)  # [H, r, K]

    def forward(self) -> Tensor:
        """Multiply out the matrices [H, V, K]."""
        return self.rows @ self.columns  # [H, V, r] @ [H, r, K] -> [H, V, K]


class StateTuned(Wrapper):
    """A backbone whose first state is learned, and nothing else.

    Every sequence begins with S_0, the same for all rows of a batch, in place of zeros. Tuned are
    the parts of the base's state with one matrix per head; token shifts, convolutions and counts
    stay as the base begins, unless ``vectors`` says otherwise. Raises ``CapabilityError`` for a
    base whose state grows or holds no matrix, ``ConfigError`` for a rank above the matrix.
    """

    # a class around any base promises only what every base it takes keeps
    caps = Caps(constant_state=True)

    begins: ClassVar[bool] = True

    @dataclass
    class Config(Wrapper.Config):
        """The base, and the parts of its first state that are learned."""

        rank: OptionalSize = 0
        """Rank of each head's matrix, as a product of two; 0 learns every number of it."""
        rate: Positive = 100.0
        """Learning rate of the state as a multiple of the recipe's: a state that begins at zero has
        far to go, and RWKV-PEFT's rates for it (1 falling to 0.01) would spoil anything else."""
        vectors: bool = False
        """True learns parts [B, D] as well, such as RWKV-7's token shifts."""
        supports: OptionalSize = 0
        """M; above 0, a larger matrix [M, M] of features stands beside every head's, begins with
        a state of its own and is read by a learned map (``upscaling.py``, an interpretation)."""
        gamma: NonNegative = 0.0
        """Width of these features; 0 means 1 / 2N, N the size of a head."""
        decorrelate: NonNegative = 0.0
        """Rate of the rule that decorrelates them in training; 0 leaves them as they are."""
        variance_share: Share = 0.5
        """Share of that rule which goes to variances of 1, the rest to correlations of 0."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.supports:
            upscale(self.base, config.supports, config.gamma)
            self.memory = self.base.memory
        for memory in upscaled(self.base):
            memory.learn(config.decorrelate, config.variance_share)
        begin = self.base.init_state(1)
        check_base(self.base, begin)
        self.names = tuple(tunable(begin, config.vectors))
        self.begin = nn.ModuleDict(
            {_key(name): _learned(name, begin[name], config.rank) for name in self.names}
        )

    @classmethod
    def small_config(cls) -> Config:
        """For the contract suites: a small RWKV-7."""
        base = {"name": "rwkv7", "width": 48, "layers": 3, "head_size": 16, "ffn_width": 112}
        return cls.Config(base=base)

    def learned(self) -> State:
        """Return the learned parts of the state without batch: matrices [H, V, K], vectors [D]."""
        return {name: self.begin[_key(name)]() for name in self.names}

    def init_state(self, batch: int, *, device: Any = None, dtype: Any = None) -> State:
        """The base's state with S_0 in it, of which every row has its own copy.

        Gradients of all rows meet in S_0.
        """
        state = self.base.init_state(batch, device=device, dtype=dtype)
        for name, part in self.learned().items():
            zeros = state[name]
            # a copy even of one row: steps write into states, and must not write into S_0
            rows = part.to(zeros.device, zeros.dtype).repeat(batch, *[1] * part.ndim)  # [B, ...]
            state[name] = rows
        return state

    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state; without a state the learned one begins."""
        state = self.init_state(len(x), device=x.device) if state is None else state
        return self.base(x, state, mask=mask)  # [B, T, D]

    @classmethod
    def count_parameters(cls, config: Config) -> int:
        """The base's, and the learned parts, whose shapes a base on the meta device gives."""
        count = 0
        with torch.device("meta"):
            base = build_base(config.base)
            if config.supports:
                upscale(base, config.supports, config.gamma)
                count = sum(memory.output.numel() for memory in upscaled(base))
            begin = base.init_state(1)
        for name in tunable(begin, config.vectors):
            shape = begin[name].shape[1:]
            if config.rank and len(shape) == MATRIX - 1:
                count += config.rank * shape[0] * (shape[1] + shape[2])
            else:
                count += shape.numel()
        return count_base(config.base) + count

    def flops_per_position(self, context: int = 0) -> int:
        """The base's, and the larger memories: what a sequence begins with costs nothing."""
        more = sum(memory.operations() for memory in upscaled(self.base))
        return self.base.flops_per_position(context) + more

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """The base's; with larger memories there is no engine but plain PyTorch."""
        if self.config.supports:
            return eager_only("state_tuned with 'supports'", engine, weights)
        return self.base.accelerate(engine, weights)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """The state at ``rate`` times the learning rate, and never decayed: zero is no home."""
        groups = trainable(self.base.parameter_groups(learning_rate, weight_decay))
        state = {"lr": self.config.rate * learning_rate, "weight_decay": 0.0}
        return [*groups, *trainable([{"params": list(self.begin.parameters()), **state}])]


def tunable(begin: State, vectors: bool = False) -> list[str]:
    """List the parts of a state of batch 1 that can be learned, in its order.

    That is one matrix per head in float32 or more; with ``vectors`` also [B, D].
    """
    return [
        name
        for name, part in begin.items()
        if part.is_floating_point()
        and ((part.ndim == MATRIX and part.itemsize >= 4) or (vectors and part.ndim == 2))
    ]


def check_base(base: Backbone, begin: State) -> None:
    """Raise ``CapabilityError`` unless ``base`` has matrices to learn in a state that never grows.

    ``begin`` is its state of batch 1.
    """
    key = type(base).__name__
    # a state that grows holds nothing before the first position that could be learned
    require_caps(
        base,
        "A learned first state (state_tuned)",
        "constant_state",
        do="Wrap a backbone with a constant state, such as rwkv7; for this one take 'peft'.",
    )
    if not tunable(begin):
        shapes = ", ".join(f"{n} {list(p.shape)}" for n, p in list(begin.items())[:3])
        raise CapabilityError(
            f"The state of {key} has no float32 matrix per head [B, H, V, K]; it has {shapes}.",
            "the base of 'state_tuned'",
            "Wrap a backbone whose state has matrices, such as rwkv7.",
        )


def _learned(name: str, part: Tensor, rank: int) -> nn.Module:
    """Make the parameters of a part [1, ...]. Raises ``ConfigError`` for a rank out of range."""
    shape = tuple(part.shape[1:])
    if rank < 0:
        raise ConfigError(
            f"A rank of {rank} is none.", "the rank of 'state_tuned'", "Write 0, or a number above."
        )
    if not rank or len(shape) != MATRIX - 1:
        return Dense(shape)
    if rank > min(shape[1:]):
        raise ConfigError(
            f"Rank {rank} is above that of '{name}', whose matrices are {shape[1]} x {shape[2]}.",
            "the rank of 'state_tuned'",
            f"Write {min(shape[1:])} at most, or 0 for the whole matrix.",
        )
    return LowRank(shape, rank)


def _key(name: str) -> str:
    """Write a part's name as that of a module, which may hold no dot."""
    return name.replace(".", "-")
