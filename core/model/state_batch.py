"""States of several sequences as the rows of one batch: join, split, pick, pad, read and write.

Where a part grows with its sequence (a cache of keys and values), shorter rows have zeros behind,
and a part of whole numbers [B], a counter, holds the length of each row.
``Pool`` holds many sequences that come and go; ``wishbone.core.speak.server`` speaks many requests
on top of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wishbone.core.contract.backbone import Backbone, State, require_caps
from wishbone.core.contract.errors import CapabilityError, WishboneError

MOST_INDICES = 256
"""Lists of slots whose tensors are kept; members change far less often than steps are taken."""


def copied(state: State) -> State:
    """Copy every tensor, so that a step on the copy leaves ``state`` as it is."""
    return {name: part.clone() for name, part in state.items()}


def padded(part: Tensor, shape: Sequence[int]) -> Tensor:
    """Put zeros behind: part [B, ...] -> [B, *shape]; itself where nothing is missing."""
    missing = [size - have for have, size in zip(part.shape[1:], shape, strict=True)]
    if not any(missing):
        return part
    return F.pad(part, [n for count in reversed(missing) for n in (0, count)])  # [B, *shape]


def join(states: Sequence[State]) -> State:
    """Make one state of the rows of all, in order; tensors are new."""
    if len(states) == 1:
        return copied(states[0])
    return {name: _join_parts([state[name] for state in states]) for name in states[0]}


def split(state: State) -> list[State]:
    """Make a state of batch 1 of every row; tensors are views. Zeros behind stay."""
    count = len(next(iter(state.values())))
    return [{name: part[row : row + 1] for name, part in state.items()} for row in range(count)]


def pick(state: State, rows: Tensor) -> State:
    """Make a state of some rows, rows [N] int64, in that order; tensors are new."""
    return {name: part.index_select(0, rows.to(part.device)) for name, part in state.items()}


def write_rows(state: State, rows: Sequence[int], values: State) -> None:
    """Overwrite ``rows`` in place with ``values``, in the types of ``state``.

    A part becomes a longer tensor where ``values`` are longer.
    """
    for name, new in values.items():
        part = state[name]
        shape = tuple(map(max, part.shape[1:], new.shape[1:]))
        part = state[name] = padded(part, shape)  # [B, ...]
        part[list(rows)] = padded(new, shape).to(part.device, part.dtype)  # [N, ...]


def counters(state: State) -> tuple[str, ...]:
    """Name the parts of whole numbers, which hold the length of each row."""
    return tuple(name for name, part in state.items() if not part.is_floating_point())


def rows_may_differ(backbone: Backbone) -> bool:
    """Tell whether sequences of different lengths can be rows of one state."""
    return backbone.caps.constant_state or bool(counters(backbone.init_state(1)))


def check_masked_rows(backbone: Backbone) -> None:
    """Raise ``CapabilityError`` unless rows may take different numbers of positions in a call."""
    require_caps(backbone, "Guidance, which pads the shorter of two sequences,", "varlen")
    if rows_may_differ(backbone):
        return
    raise CapabilityError(
        f"{type(backbone).__name__} cannot hold two sequences of different lengths in one batch.",
        "caps and init_state of the backbone",
        "Leave guidance at 1, or use a backbone that honours masks and counts its positions.",
    )


class Pool:
    """A fixed number of slots, each the state of one sequence, for any backbone.

    ``join`` takes a slot and ``leave`` gives it back; ``forward`` is a prefill of one slot,
    ``step`` a decoding step of several; ``read`` and ``write`` move a state out and in.

    A decoding step costs little more than reading the weights once, whether it serves one sequence
    or thirty. Every step runs the whole batch, free slots too, so with a state of constant size the
    numbers of a slot depend on the number of slots and never on the other sequences. Sums over
    a longer padded row may differ in their last bit. A backbone whose rows cannot differ in length
    raises ``CapabilityError``.

    The tensors in ``state`` belong to the backbone's ``step_``, which may replace them; rows of
    them are overwritten in place, and nothing else may hold them. Not thread-safe: callers lock.
    """

    def __init__(
        self, backbone: Backbone, slots: int, narrow: Mapping[str, torch.dtype] | None = None
    ) -> None:
        """``narrow`` stores parts whose name ends so in another type between steps.

        ``{".wkv": torch.bfloat16}`` halves the memory of parts such as ``layers.0.wkv``; the README
        of the backbone has the costs. Raises ``CapabilityError``.
        """
        if slots < 1:
            raise WishboneError(
                f"A pool of {slots} slots holds nothing.", "Pool(slots=...)", "Ask for one or more."
            )
        self.backbone, self.slots = backbone, slots
        self._empty = backbone.init_state(1)
        self._counters = counters(self._empty)
        if backbone.needs_reading:
            raise CapabilityError(
                f"{type(backbone).__name__} asks what each position reads, and gets vectors alone.",
                where="Pool",
                do="Decode one stream at a time, or use a backbone without such halves.",
            )
        if not rows_may_differ(backbone):
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
        """Number of slots that no sequence has."""
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
        self._check_taken(slot)
        self._used.remove(slot)
        self._reset_free()

    def fork(self, slot: int) -> int:
        """Take a new slot with a copy of this one, as for several continuations of one prompt."""
        self._check_taken(slot)
        return self.join(self.read(slot))

    @torch.inference_mode()
    def read(self, slot: int) -> State:
        """Copy one slot's state, batch 1, as ``forward`` takes it."""
        self._check_taken(slot)
        return {
            name: part[slot : slot + 1].to(self._empty[name].dtype, copy=True)
            for name, part in self.state.items()
        }

    @torch.inference_mode()
    def write(self, slot: int, state: State) -> None:
        """Overwrite one slot with a state of batch 1. Raises ``CapabilityError`` if it is none."""
        self._check_taken(slot)
        if state.keys() != self._empty.keys() or any(len(part) != 1 for part in state.values()):
            raise CapabilityError(
                "This is not the state of one sequence of this backbone.",
                where="a state given to a pool",
                do="Give what forward or init_state(1) of the pool's backbone returned.",
            )
        write_rows(self.state, [slot], state)

    @torch.inference_mode()
    def forward(self, slot: int, x: Tensor) -> Tensor:
        """x [T, D], many positions of one slot at once -> y [T, D]."""
        y, after = self.backbone(x[None], self.read(slot))  # [1, T, D]
        self.write(slot, after)
        return y[0]  # [T, D]

    @torch.inference_mode()
    def step(self, slots: Sequence[int], x: Tensor) -> Tensor:
        """x [N, D], one position for each of N different ``slots`` -> y [N, D].

        The states of all other slots stay as they are, for which taken ones are copied aside: a
        slot that is left out of many steps is better given back and written again later.
        """
        for slot in slots:
            self._check_taken(slot)
        rows = self._index(slots, x.device)  # [N]
        batch = x.new_zeros(self.slots, 1, x.shape[-1])  # [B, 1, D]
        batch[rows, 0] = x  # [N, D]
        # ``step_`` changes every row: those that do not take part are put back afterwards
        resting = sorted(self._used - set(slots))
        before = {name: part[resting] for name, part in self.state.items()} if resting else {}
        y = self._advance(batch)  # [B, 1, D]
        write_rows(self.state, resting, before)
        self._reset_free()
        return y[rows, 0]  # [N, D]

    def _advance(self, batch: Tensor) -> Tensor:
        """One position of every slot, batch [B, 1, D] -> y [B, 1, D]."""
        if not self._narrow or self.backbone.steps_narrow_state():
            return self.backbone.step_(batch, self.state)  # [B, 1, D]
        wide = {name: part.to(self._empty[name].dtype) for name, part in self.state.items()}
        y = self.backbone.step_(batch, wide)  # [B, 1, D]
        for name, part in wide.items():
            self.state[name] = part.to(self._narrow.get(name, part.dtype))
        return y

    @torch.inference_mode()
    def _reset_free(self) -> None:
        """Set free slots to length 0, or they would make the state of all rows longer."""
        free = [slot for slot in range(self.slots) if slot not in self._used]
        if free:
            for name in self._counters:
                part = self.state[name]  # [B]
                part[self._index(free, part.device)] = self._empty[name]

    def _index(self, slots: Sequence[int], device: torch.device) -> Tensor:
        """``slots`` as a tensor [N]; cached, because copying one to a GPU makes the host wait."""
        key = tuple(slots)
        index = self._indices.get(key)
        if index is None or index.device != device:
            if len(self._indices) > MOST_INDICES:
                self._indices.clear()
            index = self._indices[key] = torch.tensor(key, dtype=torch.int64, device=device)
        return index

    def _check_taken(self, slot: int) -> None:
        if slot not in self._used:
            raise WishboneError(
                f"Slot {slot} belongs to nobody.", "Pool", "Use a slot that join returned."
            )


def _join_parts(parts: Sequence[Tensor]) -> Tensor:
    """Parts [B_i, ...] -> [sum of B_i, ...], shorter ones with zeros behind."""
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    return torch.cat([padded(part, shape) for part in parts])  # [sum of B_i, *shape]
