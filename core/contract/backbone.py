"""The contract of a backbone: vectors to vectors, left to right, with a state.

Four methods are abstract; the other ones have a default that holds for every backbone. A feature
that needs more than the contract asks for a promise of ``Caps`` by ``require_caps``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wishbone.core.contract.engines import eager_only
from wishbone.core.contract.errors import CapabilityError
from wishbone.core.contract.part import Part

Reading = tuple[Tensor, Tensor]
"""What positions read: table [B, T], 0 for speech, and ids [B, T, Q], the rows in that table."""
State = dict[str, Tensor]
"""Memory of a backbone: flat names to plain tensors [B, ...], so a file can hold it."""


@dataclass(frozen=True)
class Caps:
    """Promises of a backbone. A feature checks the promise before any weight is read."""

    streaming: bool = True
    """Position by position gives the same numbers as one call."""
    constant_state: bool = False
    """The state does not grow with the number of positions."""
    varlen: bool = True
    """``mask`` is honoured: a masked position changes nothing."""
    peft_targets: tuple[str, ...] = ()
    """Name endings of the linear layers that adapters may wrap; empty means none."""


class Backbone(Part, nn.Module):
    """Vectors to vectors, left to right: the part this library exists to exchange.

    ``wishbone match`` finds sizes at which two backbones cost the same; it changes those of the
    fields ``width``, ``layers`` or ``depth``, ``heads`` (whole heads of ``head_size``) and
    ``size_fields`` that ``Config`` has. A stack of blocks by a pattern is changed by ``repeat``
    in the place of ``layers``.
    """

    caps: ClassVar[Caps] = Caps()
    size_fields: ClassVar[Mapping[str, float]] = {"ffn_width": 16}
    """Fields of ``Config`` that may change for the sake of equal size -> the step of each."""
    width: int
    """D of the vectors that go in and come out."""
    needs_reading: bool = False
    """``forward`` and ``step_`` need ``reading``: vectors alone do not say what a position is."""
    exact: bool = True
    """Earlier outputs are the same to the last bit whatever follows; not so with an FFT."""
    memory: tuple[str, ...] | None = None
    """Endings of the names of those parts of the state that recur, which are float32 at least. None
    leaves it to the contract suite to take the largest part of a constant state for it."""
    differentiable: bool = True
    """Outputs change smoothly with inputs; not so with bits inside."""
    rounding: float = 0.05
    """Largest relative error of a model in bfloat16 that rounding explains: it adds up with the
    layers, and is more where numbers of the state are multiplied with each other."""

    @classmethod
    def caps_of(cls, config: Any) -> Caps:
        """Return the promises of a backbone of ``config``, an instance of ``Config``.

        The default is ``caps``; a class whose promises depend on its configuration overrides this,
        and its instances have the answer as their ``caps``.
        """
        return cls.caps

    @abstractmethod
    def init_state(
        self,
        batch: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Make the state before the first position, of ``batch`` rows.

        ``device`` and ``dtype`` are those of the weights by default. Recurrent parts are float32
        whatever ``dtype``, or float64.
        """

    @abstractmethod
    def forward(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D] and the state after the last position.

        mask [B, T] is true at real positions; a masked one leaves the state as it was. ``state``
        is never changed in place. One call with T equals any split of it into several calls.
        A backbone with ``needs_reading`` takes ``reading``, too, and no other one is given it.
        """

    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D], the dictionary ``state`` updated in place.

        The numbers are those of ``forward`` with one position. The tensors in ``state`` are the
        step's to use: it may write into them or put others in their place, so read the entries
        again after every step, and copy the tensors of a state that shall be continued twice.
        Rows may be written into the entries between two steps; the next step goes on from them.
        No gradient is promised.
        """
        y, after = self(x, state)
        state.clear()
        state.update(after)
        return y

    def penalty(self) -> Tensor | None:
        """Return what the last ``forward`` in training adds to the loss of each target, a scalar.

        None for nothing, the default; a mixture of experts asks for a balance here.
        """
        return None

    def point(self) -> None:
        """Put a pointer behind every vector from now on, for a head with ``points``.

        y is then [B, T, D + 2 k] in float32 at least: D numbers, k ids of the first codebook, and
        their k weights, of at most 1 in all. Raises ``CapabilityError`` where nothing points.
        """
        raise CapabilityError(
            f"The head takes a pointer, and {type(self).__name__} points at nothing.",
            "the head of this system",
            "Use a stack with the mixer 'sparse_pointer', or the head that is inside.",
        )

    def plain(self) -> Backbone:
        """Return the backbone inside its adapters, on the same memory; itself without any.

        A text model speaks through it beside the speech model. Raises ``CapabilityError`` where
        adapters were merged into its weights.
        """
        return self

    def choose_adapter(self, state: State, adapter: str) -> State:
        """Return ``state`` for sequences that go on with one of several adapters.

        A voice names the adapter. Raises ``CapabilityError`` where the backbone has none to choose
        from, ``UnknownName`` where it has no ``adapter``.
        """
        raise CapabilityError(
            f"There is an adapter '{adapter}' to be chosen, and {type(self).__name__} has none.",
            "the backbone of this system",
            "Use a backbone with 'adapters:', such as peft, or leave the choice out.",
        )

    def accelerate(self, engine: str = "auto", weights: str = "float32") -> str:
        """Choose how ``step_`` computes from now on -> the engine used.

        Names are in ``wishbone.core.contract.engines``. "auto" takes the fastest that this machine
        can have: a C++ engine is built on the first use, once for a machine, with a line on
        standard error; where that cannot be, it takes "eager" and says why, and raises nothing.
        Every engine keeps the contract of ``step_``, takes any other's state, also in the middle
        of a sequence, and may be called by several threads at once, each with a state of its own.
        Weights are read now: call again after changing or moving them. "eager" undoes it. Raises
        ``CapabilityError`` with the reason for a named engine that cannot be had here.
        """
        return eager_only(type(self).__name__, engine, weights)

    def steps_narrow_state(self) -> bool:
        """Return True where ``step_``, as ``accelerate`` chose it, takes a state in bfloat16.

        Recurrent parts are then read and written in that type and computed in float32 all the
        same. Otherwise a batch that stores them in bfloat16 widens them before a step.
        """
        return False

    @abstractmethod
    def state_bytes(self, length: int, *, dtype: torch.dtype = torch.float32) -> int:
        """Return the exact bytes of a state of one row after ``length`` positions.

        ``dtype`` is that of the model.
        """

    @classmethod
    @abstractmethod
    def count_parameters(cls, config: Any) -> int:
        """Count the parameters of a backbone of ``config`` by a formula, building nothing."""

    def flops_per_position(self, context: int = 0) -> int:
        """Count multiplications and additions of one decoding step after ``context`` positions."""
        return 2 * sum(p.numel() for p in self.parameters() if p.ndim > 1)

    def training_form(self) -> str:
        """Name the form of ``forward`` in training on this device, for the log; "" for one form."""
        return ""

    def shardable(self) -> Sequence[nn.Module]:
        """Return the modules that processes which share parameters out gather one at a time.

        None lies inside another, and ``forward`` calls each as a module, because that is when its
        parameters are gathered. The default is the whole backbone in one; a stack names its layers.
        """
        return [self]

    def mixers(self) -> Sequence[nn.Module]:
        """Return the token mixers, one a layer, in order; () where none can be told apart.

        ``forward`` calls each once, as a module, with x [B, T, D] first; it returns y [B, T, D],
        or a tuple whose first item is y. Distillation compares them between two backbones.
        """
        return ()

    def inherit(self, other: Backbone) -> None:
        """Copy from ``other``, which is trained, the weights to begin a distillation with.

        By default tensors of the same name and shape; a backbone that is made to take another's
        place maps names and shapes itself.
        """
        other_state, state = other.state_dict(), self.state_dict()
        common = {n: t for n, t in other_state.items() if n in state and state[n].shape == t.shape}
        self.load_state_dict(common, strict=False)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return parameter groups for AdamW. The default decays matrices and no vectors."""
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        return [
            {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": vectors, "lr": learning_rate, "weight_decay": 0.0},
        ]


def require_caps(
    backbone: Backbone | type[Backbone],
    feature: str,
    *capabilities: str,
    key: str = "",
    caps: Caps | None = None,
    do: str = "Choose another backbone, or leave that feature out.",
) -> None:
    """Check the promises a feature relies on: the one way in which features ask for them.

    ``wishbone.core.system.spec.require`` asks the class that a configuration names, before anything
    is built; it hands in the ``caps`` that the class has for that configuration. ``feature``,
    ``key`` (the backbone's registry key) and ``do`` are for the error.
    Raises ``CapabilityError`` for the first of ``capabilities``, fields of ``Caps``, that is not
    promised.
    """
    cls = backbone if isinstance(backbone, type) else type(backbone)
    promised = backbone.caps if caps is None else caps
    for capability in capabilities:
        if not getattr(promised, capability):
            name = f"backbone '{key}'" if key else cls.__name__
            raise CapabilityError(
                f"{feature} needs '{capability}', and {name} does not promise it.",
                f"caps of {cls.__module__}:{cls.__name__}",
                do,
            )
