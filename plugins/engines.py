"""Choosing an engine: the part of ``accelerate`` that the built-in backbones and heads share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.engines import ENGINES, WEIGHTS, refuse_retired, unavailable
from wishbone.kernels.linear import NativeMissing, forget_failures


class Engine(Protocol):
    """One way to compute a step of one backbone. Several threads may step states of their own."""

    narrow: bool
    """True where it takes recurrent parts in bfloat16; see ``Backbone.steps_narrow_state``."""

    def takes(self, x: Tensor, state: State) -> bool:
        """Return whether it can do this step; plain PyTorch does the others."""

    def step_(self, x: Tensor, state: State) -> Tensor:
        """As ``Backbone.step_``."""


FEW, SMALL = 8, 8_000_000
"""Positions of one sequence up to which single steps are sooner done than all at once, of a model
of up to so many parameters: its weights stay in the processor's cache between two steps. The
bundled RWKV-7 takes 0.7 ms for four steps and 2.2 ms for four at once (one thread, AMD EPYC)."""


def few(part: nn.Module) -> int:
    """Return the most positions of one sequence that an engine should do step by step."""
    return FEW if sum(p.numel() for p in part.parameters()) <= SMALL else 0


LARGEST_UNASKED = 200_000_000
"""Parameters up to which "auto" packs float32 weights: half a second, and their memory again."""

Maker = Callable[[Any, str], Any]
"""Called with the part and ``weights``; returns an engine."""


def choose(part: nn.Module, engine: str, weights: str, makers: dict[str, Maker]) -> tuple[Any, str]:
    """Return an engine for ``part``, or None for plain PyTorch, and its name.

    ``makers`` makes each engine by its name, "native" and "graph". "auto" takes the C++ engine,
    which the first use builds, and plain PyTorch with a note on standard error where it cannot be
    built. Raises ``CapabilityError`` with the reason for what cannot be had.
    """
    name = type(part).__name__
    _watch(part)
    refuse_retired(engine, f"accelerate('{engine}', '{weights}')")
    if engine not in ENGINES or weights not in WEIGHTS:
        raise unavailable(name, engine, weights, "there is no such name")
    device = next(part.parameters()).device.type
    if engine == "auto":
        if foreign := _not_plain(part):
            if weights == "float32":
                return None, "eager"
            raise unavailable(name, engine, weights, f"'{foreign}' does more than its weight says")
        return _automatic(part, weights, makers, device)
    if engine == "eager":
        if weights != "float32":
            raise unavailable(name, engine, weights, "plain PyTorch reads the weights as they are")
        return None, "eager"
    if foreign := _not_plain(part):
        raise unavailable(name, engine, weights, f"'{foreign}' does more than its weight says")
    if engine not in makers:
        raise unavailable(name, engine, weights, "this part has no such engine")
    place = "cuda" if engine == "graph" else "cpu"
    if device != place:
        raise unavailable(name, engine, weights, f"it is for {place}, the weights are on {device}")
    try:
        if engine == "native":
            forget_failures()
        return makers[engine](part, weights), engine
    except (NativeMissing, ValueError) as error:
        raise unavailable(name, engine, weights, str(error)) from error


def _watch(part: nn.Module) -> None:
    """Have ``part`` return to plain PyTorch when it loads other weights than an engine packed."""
    if not getattr(part, "_watched", False):
        part.register_load_state_dict_post_hook(_released)
        part._watched = True


def _released(part: nn.Module, _: Any) -> None:
    part._engine = None


def _not_plain(part: nn.Module) -> str:
    """A linear layer that an adapter or anything else was put around; empty if there is none.

    Engines read weights and call no layer, so they would leave out what such a layer adds. A
    stand-in whose ``weight`` is all it computes with says so with ``whole_weight``.
    """
    ends = tuple(f".{end}" for end in getattr(getattr(part, "caps", None), "peft_targets", ()))
    for name, module in part.named_modules():
        plain = type(module) is nn.Linear or getattr(module, "whole_weight", False)
        if not plain and f".{name}".endswith(ends):
            return name
    return ""


def _automatic(
    part: nn.Module, weights: str, makers: dict[str, Maker], device: str
) -> tuple[Any, str]:
    """The engine that "auto" means and its name; see ``choose``."""
    narrow, reason = weights != "float32", "only the CPU has an engine for them"
    small = sum(p.numel() for p in part.parameters()) <= LARGEST_UNASKED
    if device == "cpu" and "native" in makers and (narrow or small):
        try:
            return makers["native"](part, weights), "native"
        except NativeMissing as error:
            reason = str(error)
            if not narrow:
                note_once(reason)
        except ValueError as error:
            reason = str(error)
    if narrow:
        raise unavailable(type(part).__name__, "auto", weights, reason)
    return None, "eager"


@cache
def note_once(reason: str) -> None:
    """Print once in a process why steps are not as fast as they could be."""
    print(
        f"note: steps run as plain PyTorch, several times slower than in C++: {reason}",
        file=sys.stderr,
        flush=True,
    )
