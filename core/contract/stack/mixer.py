"""The contract of a token mixer: one half of a block, and what it remembers.

A block of the backbone ``stack`` is x + mixer(norm(x)), then x + ffn(norm(x)). Both halves keep
this contract; most feed-forward parts see one position and remember nothing. The stack does the
rest for all: norms, residual, dropout, padding, names of the state, counting and engines.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.part import Part

BALANCE = "balance"
"""Name in ``Call.extra`` of a penalty."""
POINTER = "pointer"
"""Name in ``Call.extra`` of ids and weights [B, T, k] for the head."""


@dataclass(frozen=True)
class Place:
    """Where in a stack a half stands, for sizes and for initial values that depend on depth."""

    width: int
    """D."""
    layer: int = 0
    """Number of its block, from 0."""
    layers: int = 1
    """Number of blocks."""
    published: tuple[str, ...] = ()
    """Names that earlier halves leave in ``Call.shared``."""
    ffn_width: int = 0
    """Inner width that the stack asks of a feed-forward part; 0 means by the part's own rule."""
    start: bool = True
    """False where the stack calls ``reset_parameters`` itself, once everything is built."""
    demand: tuple[str, ...] = ()
    """Names that some half of the stack reads."""


@dataclass
class Call:
    """One call of the stack, shared by all of its halves in order."""

    lengths: Tensor | None = None
    """[B] int64, real positions of each row, always at its front; None: all T of them."""
    start: Tensor | None = None
    """[B] int64, real positions before this call; None unless a half has ``positions``."""
    table: Tensor | None = None
    """[B, T] int64, the layout's table of each position, 0 for speech; None unless a half has
    ``ids``."""
    ids: Tensor | None = None
    """[B, T, Q] int64, the row in that table; None unless a half has ``ids``."""
    first: bool = False
    """No row has had a position before this call; False where that is not known."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What one half leaves for later ones of the same call, by the names of ``publishes``. Tensors
    are [B, T, ...], with a T of 1 in a step."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What halves leave beside y: the stack adds ``BALANCE``, a scalar, to the training loss of a
    target, hands ``POINTER`` to a head that takes one, and drops the others."""


class Mixer(Part, nn.Module):
    """One half of a block: vectors to vectors, left to right, with a small state.

    Parts of the kinds ``mixer`` and ``ffn`` are of this class; a configuration says which is where.
    """

    positions: ClassVar[bool] = False
    """Wants ``call.start``, the number of positions before the call."""
    ids: ClassVar[bool] = False
    """Wants ``call.table`` and ``call.ids``."""
    points: int = 0
    """k, ids of speech that each position leaves as ``POINTER``, with weights of at most 1 in
    all."""
    constant: bool = True
    """The state does not grow. An instance may set it from its configuration."""
    exact: ClassVar[bool] = True
    """Earlier outputs are the same to the last bit whatever follows; not so with an FFT."""
    differentiable: ClassVar[bool] = True
    """Outputs change smoothly with inputs; not so with bits, which have no gradient and no size of
    a rounding error."""
    rounding: ClassVar[float] = 0.05
    """Largest relative error of a model in bfloat16 that rounding explains."""
    publishes: ClassVar[tuple[str, ...]] = ()
    """Names it leaves in ``call.shared``."""
    offers: ClassVar[tuple[str, ...]] = ()
    """Names it leaves there where ``place.demand`` has them, which may cost a faster way."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Names in ``call.shared`` that an earlier half, also of an earlier block, leaves."""
    memory: tuple[str, ...] = ()
    """Names of state tensors that recur: float32, or float64, whatever the model is."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Name endings of linear layers that adapters may wrap."""
    fast: ClassVar[tuple[str, ...]] = ()
    """Name endings of parameters that learn at twice the rate and are never decayed."""
    vectors: ClassVar[tuple[str, ...]] = ()
    """Name endings of parameters with several axes that are no matrices to multiply with."""

    recipe: Any = None
    """A method ``recipe(recipe, x)`` that writes down what a step does, for the C++ step of a stack
    (``plugins/stack/README.md``); None where there is none."""

    def __init__(self, config: Any, place: Place) -> None:
        """Build for one place. Raises ``ConfigError`` where sizes do not fit, such as heads."""
        super().__init__()
        self.config = config
        self.place = place

    def init_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> State:
        """Make the state before the first position; {} where nothing is remembered.

        Tensors are [B, ...]; matrices are [B, H, V, K]. Those of ``memory`` are float64 where
        ``dtype`` is, else float32; others have ``dtype``, that of the model.
        """
        return {}

    @abstractmethod
    def forward(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, T, D], normed -> y [B, T, D] before the residual, and a state of the same names.

        Row b has ``call.lengths[b]`` real positions at its front: the state that comes back is that
        after the last of them, and outputs behind them mean nothing. ``state`` is not changed in
        place, and what comes back is no view of a larger tensor. T is at least 1.
        """

    def step(self, x: Tensor, state: State, call: Call) -> tuple[Tensor, State]:
        """x [B, D] -> y [B, D] and the state: ``forward`` of one real position, faster.

        No gradient is needed, and tensors of ``state`` may be written in place.
        """
        y, state = self.forward(x[:, None], state, call)  # [B, 1, D]
        return y[:, 0], state

    def growth(self) -> Mapping[str, int]:
        """Numbers that one position adds to a row's state, by its names; {} for a constant one."""
        return {}

    def operations(self, context: int = 0) -> int:
        """Count what a step does besides its matrices: operations on state after ``context``."""
        return 0

    @classmethod
    def count_parameters(cls, config: Any, place: Place) -> int:
        """Count the parameters of a half at ``place``; the default builds it on the meta device.

        The number may depend on ``layer`` only as far as the first and the last block differ from
        the ones between. Raises as ``__init__`` does.
        """
        with torch.device("meta"):
            half = cls(config, place)
        return sum(parameter.numel() for parameter in half.parameters())

    def training_form(self) -> str:
        """Name the form of ``forward`` in training on this device, for the log; "" for one form."""
        return ""

    def reset_parameters(self) -> None:
        """Set initial values again, as ``__init__`` does; the default calls those of children."""
        for child in self.children():
            reset = getattr(child, "reset_parameters", None)
            if callable(reset):
                reset()
