"""Slots of state: streams of different lengths decoded as one batch.

A decoding step costs little more than reading the weights once, whether it serves one stream or
thirty. ``Pool`` holds the states of many sequences in one batch; ``wishbone.core.serve.server``
speaks many requests on top of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.errors import CapabilityError, WishboneError
from wishbone.core.interfaces import Backbone, State

MOST_INDICES = 256
"""Lists of slots whose tensors are kept; members change far less often than steps are taken."""


class Pool:
    """A fixed number of slots, each the state of one sequence, for any backbone.

    Every step runs the whole batch, free slots too, so with a state of constant size the numbers
    of a slot depend on how many slots there are and never on who else is there. A state that grows
    with its sequence needs shorter rows padded with zeros and a part of whole numbers that says how
    long each row is: that is what ``Transformer`` has. Sums over a longer padded row may differ in
    their last bit. A backbone without such a part raises ``CapabilityError``.

    The tensors in ``state`` belong to the backbone's ``step_``, which may replace them; rows of
    them are overwritten in place, and nothing else may hold them.
    """

    def __init__(
        self, backbone: Backbone, slots: int, narrow: Mapping[str, torch.dtype] | None = None
    ) -> None:
        """``narrow`` stores parts whose name ends so in another type between steps.

        ``{".wkv": torch.bfloat16}`` halves what RWKV-7 remembers of a stream; see its README for
        what that costs. Raises ``CapabilityError``.
        """
        if slots < 1:
            raise WishboneError(
                f"A pool of {slots} slots holds nothing.", "Pool(slots=...)", "Ask for one or more."
            )
        self.backbone, self.slots = backbone, slots
        self._empty = backbone.init_state(1)
        self._counters = tuple(n for n, p in self._empty.items() if not p.is_floating_point())
        if not backbone.caps.constant_state and not self._counters:
            raise CapabilityError(
                f"{type(backbone).__name__} remembers more with every position and does not say"
                " how much, so rows of different lengths cannot share a batch.",
                where="Pool",
                do="Give the state a part [B] of whole numbers, or decode one stream at a time.",
            )
        self._narrow = {
            name: kind
            for name in self._empty
            for ending, kind in (narrow or {}).items()
            if name.endswith(ending)
        }
        self.state: State = {
            name: part.to(self._narrow.get(name, part.dtype))
            for name, part in backbone.init_state(slots).items()
        }
        self._used: set[int] = set()
        self._indices: dict[tuple[int, ...], Tensor] = {}

    @property
    def free(self) -> int:
        """How many slots nobody has."""
        return self.slots - len(self._used)

    def join(self, state: State | None = None) -> int:
        """Take a free slot and put a state of batch 1 there, by default the empty one.

        Raises ``WishboneError`` when no slot is free.
        """
        if not self.free:
            raise WishboneError(
                f"All {self.slots} slots are taken.", "Pool.join", "Wait, or make a larger pool."
            )
        slot = min(set(range(self.slots)) - self._used)
        self._used.add(slot)
        self.write(slot, self._empty if state is None else state)
        return slot

    def leave(self, slot: int) -> None:
        """Give a slot back."""
        self._check(slot)
        self._used.remove(slot)
        self._reset_free()

    def fork(self, slot: int) -> int:
        """A new slot with a copy of this one, as for several continuations of one prompt."""
        self._check(slot)
        return self.join(self.read(slot))

    @torch.inference_mode()
    def read(self, slot: int) -> State:
        """A copy of one slot's state, batch 1, as ``forward`` takes it."""
        self._check(slot)
        return {
            name: part[slot : slot + 1].to(self._empty[name].dtype, copy=True)
            for name, part in self.state.items()
        }

    @torch.inference_mode()
    def write(self, slot: int, state: State) -> None:
        """Overwrite one slot with a state of batch 1. Raises ``CapabilityError`` if it is none."""
        self._check(slot)
        if state.keys() != self._empty.keys() or any(len(part) != 1 for part in state.values()):
            raise CapabilityError(
                "This is not the state of one sequence of this backbone.",
                where="a state given to a pool",
                do="Give what forward or init_state(1) of the pool's backbone returned.",
            )
        self._put([slot], state)

    @torch.inference_mode()
    def forward(self, slot: int, x: Tensor) -> Tensor:
        """x [T, D], many positions of one slot at once -> y [T, D]."""
        y, after = self.backbone(x[None], self.read(slot))
        self.write(slot, after)
        return y[0]

    @torch.inference_mode()
    def step(self, slots: Sequence[int], x: Tensor) -> Tensor:
        """x [N, D], one position for each of N different ``slots`` -> y [N, D].

        The states of all other slots stay as they are, for which taken ones are copied aside: a
        slot that is left out of many steps is better given back and written again later.
        """
        for slot in slots:
            self._check(slot)
        rows = self._index(slots, x.device)
        batch = x.new_zeros(self.slots, 1, x.shape[-1])
        batch[rows, 0] = x
        resting = sorted(self._used - set(slots))
        kept = {name: part[resting] for name, part in self.state.items()} if resting else {}
        y = self._advance(batch)
        self._put(resting, kept)
        self._reset_free()
        return y[rows, 0]

    def _advance(self, batch: Tensor) -> Tensor:
        # an engine may read and write narrow parts itself; plain steps would compute in their type
        engine = getattr(self.backbone, "_engine", None)
        if not self._narrow or getattr(engine, "narrow", False):
            return self.backbone.step_(batch, self.state)
        wide = {name: part.to(self._empty[name].dtype) for name, part in self.state.items()}
        y = self.backbone.step_(batch, wide)
        for name, part in wide.items():
            self.state[name] = part.to(self._narrow.get(name, part.dtype))
        return y

    def _put(self, rows: list[int], parts: State) -> None:
        """Overwrite rows; a part becomes longer where they need it."""
        for name, new in parts.items():
            part = self.state[name]
            if new.shape[1:] == part.shape[1:]:
                part[rows] = new.to(part.device, part.dtype)
                continue
            shape = tuple(map(max, part.shape[1:], new.shape[1:]))
            if shape != tuple(part.shape[1:]):
                part = self.state[name] = _padded(part, shape)
            part[rows] = _padded(new, shape).to(part.device, part.dtype)

    @torch.inference_mode()
    def _reset_free(self) -> None:
        """Free slots stay of length 0, or they would make everyone's state longer."""
        free = [slot for slot in range(self.slots) if slot not in self._used]
        if free:
            for name in self._counters:
                part = self.state[name]
                part[self._index(free, part.device)] = self._empty[name]

    def _index(self, slots: Sequence[int], device: torch.device) -> Tensor:
        """``slots`` as a tensor; kept, because copying one to a GPU makes the host wait."""
        key = tuple(slots)
        index = self._indices.get(key)
        if index is None or index.device != device:
            if len(self._indices) > MOST_INDICES:
                self._indices.clear()
            index = self._indices[key] = torch.tensor(key, dtype=torch.int64, device=device)
        return index

    def _check(self, slot: int) -> None:
        if slot not in self._used:
            raise WishboneError(
                f"Slot {slot} belongs to nobody.", "Pool", "Use a slot that join returned."
            )


def _padded(part: Tensor, shape: Sequence[int]) -> Tensor:
    """part [B, ...] with zeros behind, [B, *shape]."""
    missing = [more - less for less, more in zip(part.shape[1:], shape, strict=True)]
    return F.pad(part, [n for each in reversed(missing) for n in (0, each)])
