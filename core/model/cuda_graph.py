"""Decoding steps as replays of a CUDA graph: the host starts one thing instead of hundreds.

A backbone brings a ``Static`` step, which only reads and writes memory that is there already;
``Replay`` keeps that memory for a few batch sizes, records a graph for each, and gives and takes
states as ``Backbone.step_`` does. Everything but the recording runs on any device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import RLock, get_ident
from typing import Any, Protocol

import torch
from torch import Tensor

from wishbone.core.contract.backbone import State
from wishbone.core.contract.errors import WishboneError

BLOCK = 256
"""Slots of a growing state by which a step looks further back; each number of blocks is a graph
of its own, so a step reads at most this much more than there is."""

WARM_UP = 2
"""Steps before recording, in which kernels are compiled and libraries take their memory."""


class Static(Protocol):
    """One decoding step of a backbone in fixed memory."""

    width: int
    counter: str
    """Name of the part of the state that holds each row's length; empty where no part grows."""
    narrow: bool
    """True where it takes recurrent parts that are stored in bfloat16."""

    def takes(self, x: Tensor, state: State) -> bool:
        """Tell whether it can do this step; plain PyTorch does the others."""
        ...

    def allocate(self, batch: int, room: int, like: State) -> State:
        """Make zeros in the dtypes of ``like``, for ``batch`` rows of up to ``room`` positions."""
        ...

    def step(self, x: Tensor, state: State, limit: int, /) -> Tensor:
        """x [B, D] -> y [B, D], ``state`` in place; no row holds ``limit`` positions or more.

        Reads no number on the host and depends on no shape but those of its arguments.
        """
        ...


class Replay:
    """An engine for ``step_``: the same numbers from the same step, recorded once.

    The entries of a state that is stepped become views of this engine's memory. Where another
    dictionary of the same batch size is stepped next, the first one gets copies of its own: right,
    but slow when two take turns, for which ``wishbone.core.model.state_batch.Pool`` is made. A copy
    of a dictionary shares its tensors, so stepping both raises ``WishboneError``: copy the tensors.

    Thread safety: a lock lets threads step one after another, and each thread's states lie in
    memory of their own, so their entries are not overwritten while another thread reads them.
    """

    def __init__(self, static: Static, *, record: bool = True) -> None:
        """``record`` false runs the static step itself each time, as tests on a CPU do."""
        self.static, self.record = static, record
        self.narrow = static.narrow
        self._lanes: dict[_Key, _Lane] = {}
        self._last: _Lane | None = None
        self._lock = RLock()
        self._memory: Any = None

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the backbone has weights of its own, so it begins as plain PyTorch."""

    def takes(self, x: Tensor, state: State) -> bool:
        """Tell whether it can do this step; plain PyTorch does the others."""
        return not torch.is_autocast_enabled(x.device.type) and self.static.takes(x, state)

    @torch.no_grad()
    def step_(self, x: Tensor, state: State) -> Tensor:
        """x [B, 1, D] -> y [B, 1, D], ``state`` in place. Raises ``WishboneError`` as above."""
        rows = len(x)
        with self._lock:
            lane = self._lane(x, state)
            lane.x[:rows].copy_(x[:, 0])  # [B, D]
            y = lane.run(self)  # [batch, D], batch >= B
            return y[:rows, None].to(x.dtype, copy=True)  # [B, 1, D]

    def _lane(self, x: Tensor, state: State) -> _Lane:
        """Memory that holds ``state`` and has room for one more position of it."""
        last = self._last
        if last is not None and last.has(state) and last.count() < last.room:
            return last
        key = next((key for key, lane in self._lanes.items() if lane.has(state)), None)
        if key is None:
            key = bucket(len(x)), tuple(part.dtype for part in state.values()), get_ident()
        lane = self._lanes.get(key)
        if lane is None or not lane.has(state):
            self._refuse_shared(state)
            lane = self._fitting(key, lane, state)
            lane.take(state, len(x))
        elif lane.count() >= lane.room:
            lane = self._fitting(key, None, state)
            lane.take(state, len(x))
        self._last = lane
        return lane

    def _fitting(self, key: _Key, lane: _Lane | None, state: State) -> _Lane:
        """``lane`` where it has room for one more position of ``state``, else a larger one."""
        needed = 0
        if self.static.counter:
            needed = int(state[self.static.counter].max()) + 1
        if lane is None or lane.room < needed:
            if lane is not None:
                lane.evict()
            room = BLOCK * bucket(-(-needed // BLOCK)) if needed else 0
            with torch.inference_mode(False):
                lane = _Lane(self.static, key[0], room, state)
            self._lanes[key] = lane
        return lane

    def _refuse_shared(self, state: State) -> None:
        """Raise ``WishboneError`` where another dictionary has the tensors of ``state``."""
        name = next(iter(state))
        for lane in self._lanes.values():
            if lane.owner is not state and lane.lent.get(name) is state[name]:
                raise WishboneError(
                    "Two dictionaries hold the same state, and stepping one changes the other.",
                    where="step_ with the engine 'graph'",
                    do="Copy the tensors of a state that shall go on twice: part.clone().",
                )


_Key = tuple[int, tuple[torch.dtype, ...], int]
"""Rows, the types of the state's parts, and the thread that stepped the state first."""


@dataclass
class _Lane:
    """Memory for one batch size, and the graphs that work in it."""

    static: Static
    batch: int
    room: int
    like: State
    owner: State | None = None
    """The dictionary whose entries are views of this memory."""
    lent: State = field(default_factory=dict)
    graphs: dict[int, tuple[Any, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = self.static.allocate(self.batch, self.room, self.like)
        part = next(iter(self.state.values()))
        self.x = torch.zeros(self.batch, self.static.width, device=part.device)
        self._longest, self._version = 0, -1
        self.like = {}

    def has(self, state: State) -> bool:
        """Tell whether the entries of ``state`` are views of this memory."""
        return self.owner is state and all(state[name] is part for name, part in self.lent.items())

    def take(self, state: State, rows: int) -> None:
        """Copy ``state`` in; its entries become views of this memory."""
        if self.owner is not state:
            self.evict()
        for name, part in self.state.items():
            _copy(state[name], part[:rows])
        self.lent = {name: part[:rows] for name, part in self.state.items()}
        self.owner = state
        state.update(self.lent)

    def evict(self) -> None:
        """Give the owner copies of its own."""
        for name, part in self.lent.items():
            if self.owner is not None and self.owner.get(name) is part:
                self.owner[name] = part.clone()
        self.owner, self.lent = None, {}

    def count(self) -> int:
        """Length of the longest row; read from the device only if someone else wrote there."""
        if not self.static.counter:
            return -1  # less than any room
        length = self.lent[self.static.counter]
        if length._version != self._version:
            self._longest, self._version = int(length.max()), length._version
        return self._longest

    def run(self, replay: Replay) -> Tensor:
        """One step of ``x`` -> y [batch, D], valid until the next."""
        longest = self.count()
        limit = -(-(longest + 1) // BLOCK) * BLOCK if longest >= 0 else 0
        if not replay.record:
            y = self.static.step(self.x, self.state, limit)  # [batch, D]
        else:
            if limit not in self.graphs:
                self.graphs[limit] = self._record(replay, limit)
            graph, y = self.graphs[limit]
            graph.replay()
        if self.static.counter:
            self._longest, self._version = longest + 1, self.lent[self.static.counter]._version
        return y

    def _record(self, replay: Replay, limit: int) -> tuple[Any, Tensor]:
        """Record a graph of one step. The steps that warm it up leave the state as it was."""
        before = {name: part.clone() for name, part in self.state.items()}
        if replay._memory is None:
            replay._memory = torch.cuda.graph_pool_handle()
        device = self.x.device
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.static.step(self.x, self.state, limit)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=replay._memory, capture_error_mode="thread_local"):
                y = self.static.step(self.x, self.state, limit)
        for name, part in before.items():
            self.state[name].copy_(part)
        return graph, y


def bucket(rows: int) -> int:
    """The power of two that holds ``rows``."""
    return 1 << max(rows - 1, 0).bit_length()


def _copy(part: Tensor, into: Tensor) -> None:
    """part [B, ...] into memory [B, ...] that may be longer; zeros behind."""
    if part.shape == into.shape:
        into.copy_(part)
        return
    into.zero_()
    into[tuple(slice(size) for size in part.shape)].copy_(part)
