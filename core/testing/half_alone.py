"""Checks of a half of a block that is called by itself: each names one fault."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.core.contract.stack.mixer import POINTER, Call, Mixer
from wishbone.core.model.state_batch import copied
from wishbone.core.testing.case import NARROW, build, row, same_state
from wishbone.core.testing.common import Skipped, Violation, difference, near, require

ROWS, POSITIONS, BEFORE = 3, 9, 4
LENGTHS = (9, 1, 5)
"""Real positions of the rows of a padded batch."""


class Alone:
    """One half of a stack, and calls of it as the stack makes them."""

    def __init__(self, stack: Any, config: Any, cls: type[Mixer]) -> None:
        """Take the half of the first block. Raises ``Skipped`` for one that needs another half."""
        if cls.reads:
            raise Skipped(f"it reads {', '.join(cls.reads)}, which another half leaves")
        self.dtype, self.tolerance = torch.float64, 1e-9
        self._build(stack, config, cls)
        try:
            self(self.x(), self.first(), 0)
        except RuntimeError:
            self.dtype = torch.float32
            self._build(stack, config, cls)
        if self.dtype in NARROW or any(t.dtype in NARROW for t in self.first().values()):
            self.tolerance = 1e-4

    def _build(self, stack: Any, config: Any, cls: type[Mixer]) -> None:
        model = build(stack, config, self.dtype)
        self.width = model.width
        self.half = next(m for m in model.modules() if isinstance(m, cls))

    def x(self, seed: int = 0, length: int = POSITIONS) -> Tensor:
        """Draw vectors [B, T, D]."""
        generator = torch.Generator().manual_seed(seed)
        shape = (ROWS, length, self.width)
        vectors = torch.randn(shape, generator=generator, dtype=torch.float64)  # [B, T, D]
        return vectors.to(self.dtype)

    def first(self) -> State:
        """Return the state before the first position."""
        return self.half.init_state(ROWS, torch.device("cpu"), self.dtype)

    @torch.no_grad()
    def warm(self) -> State:
        """Return a state after a few positions."""
        return self(self.x(1, BEFORE), self.first(), 0)[1]

    def starts(self) -> list[tuple[State, int]]:
        """Return the first state and a later one, each with its number of positions."""
        return [(self.first(), 0), (self.warm(), BEFORE)]

    def call(self, start: int, x: Tensor, lengths: Tensor | None = None) -> Call:
        """Return what the stack says of a call of x [B, T, D] after ``start`` positions."""
        before = torch.full((len(x),), start) if self.half.positions else None  # [B]
        table, ids = reading_of(x) if self.half.ids else (None, None)
        return Call(lengths, before, table, ids)

    @torch.no_grad()
    def __call__(
        self, x: Tensor, state: State, start: int, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """x [B, T, D] -> y [B, T, D], state."""
        return self.half(x, dict(state), self.call(start, x, lengths))


def reading_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, T, D] -> table [B, T] and ids [B, T, 1] that the vectors themselves decide.

    So a test of vectors tests what is read, too, however a call is split or padded.
    """
    table = (x[..., 0] > 0).long()  # [B, T]
    return table, (8 * x[..., 1:2]).long().abs() % 32  # [B, T, 1]


def form(alone: Alone) -> str:
    """The state has the same names, types and first axis all the way; y has the shape of x."""
    first, x = alone.first(), alone.x()
    y, after = alone(x, first, 0)
    require(y.shape == x.shape, f"y is {list(y.shape)} for x of {list(x.shape)}")
    require(after.keys() == first.keys(), f"init_state has {[*first]}, forward gives {[*after]}")
    for name, tensor in after.items():
        require(type(tensor) is Tensor, f"state {name} is a {type(tensor).__name__}")
        require(tensor.ndim > 0 and len(tensor) == ROWS, f"state {name} is not batch first")
        kinds = first[name].dtype, tensor.dtype
        require(kinds[0] == kinds[1], f"state {name} begins as {kinds[0]}, goes on as {kinds[1]}")
    return f"state: {', '.join(first) or 'none'}"


def causal(alone: Alone) -> str:
    """Changing x at t leaves every output before t as it was."""
    allowed = 0.0 if alone.half.exact else alone.tolerance
    for state, start in alone.starts():
        before, _ = alone(alone.x(), state, start)  # [B, T, D]
        for t in (1, POSITIONS - 1):
            x = alone.x()  # [B, T, D]
            x[:, t:] = 3 * alone.x(2)[:, t:] + 1
            after, _ = alone(x, state, start)  # [B, T, D]
            error = difference(after[:, :t], before[:, :t])
            require(
                error <= allowed,
                f"not causal: position {t} changes outputs before it by {error:.0e}"
                f" (allowed {allowed:.0e})",
            )
    return "outputs depend on earlier positions alone"


def rows(alone: Alone) -> str:
    """A row of a batch answers as it does alone."""
    for state, start in alone.starts():
        y, after = alone(alone.x(), state, start)
        for b in range(ROWS):
            y_alone, after_alone = alone(alone.x()[b : b + 1], row(state, b), start)
            try:
                near(y[b : b + 1], y_alone, alone.tolerance, "y")
                same_state(row(after, b), after_alone, alone.tolerance, "after")
            except Violation as error:
                raise Violation(
                    f"rows are not apart: row {b} answers otherwise in a batch than alone, so"
                    f" something is shared between rows ({error})"
                ) from None
    return f"{ROWS} rows keep apart"


def unchanged(alone: Alone) -> str:
    """``forward`` changes neither x nor the state it was given."""
    for state, start in alone.starts():
        x, kept = alone.x(), copied(state)
        for length in (1, POSITIONS):
            alone(x[:, :length], state, start)
            require(bool((x == alone.x()).all()), "forward changes x in place")
            for name, tensor in state.items():
                same = tensor.shape == kept[name].shape and bool((tensor == kept[name]).all())
                require(same, f"forward changes the state it was given in place: {name}")
    return "forward writes into nothing it was given"


def steps(alone: Alone) -> str:
    """``step`` after ``step`` gives what one call of ``forward`` does."""
    worst = 0.0
    for state, start in alone.starts():
        x = alone.x()  # [B, T, D]
        y, after = alone(x, state, start)  # [B, T, D]
        now, outputs = copied(state), []
        with torch.no_grad():
            for t in range(POSITIONS):
                out, now = alone.half.step(
                    x[:, t], now, alone.call(start + t, x[:, t, None])
                )  # [B, D]
                outputs.append(out)
        stepped = torch.stack(outputs, 1)  # [B, T, D]
        _compare(stepped, y, alone.tolerance)
        worst = max(worst, difference(stepped, y))
        worst = max(worst, same_state(now, after, alone.tolerance, "step against forward"))
    return f"largest difference {worst:.1e}"


def _compare(stepped: Tensor, y: Tensor, tolerance: float) -> None:
    """Raise ``Violation`` where both [B, T, D] differ, saying so if one is late."""
    if difference(stepped, y) <= tolerance:
        return
    for a, b, what in ((stepped, y, "step"), (y, stepped, "forward")):
        if difference(a[:, 1:], b[:, :-1]) <= max(tolerance, 1e-6):
            raise Violation(f"off by one position: {what} gives at t what the other gives at t - 1")
    t = int((stepped - y).abs().amax((0, 2)).gt(tolerance).nonzero()[0])
    raise Violation(
        f"step is not forward of one position: they differ from position {t} of the call on,"
        f" by {difference(stepped, y):.0e}; an error of one position looks like this, too"
    )


def splits(alone: Alone) -> str:
    """Two calls in a row give what one call does: the state is that after the last position."""
    worst = 0.0
    for state, start in alone.starts():
        x = alone.x()  # [B, T, D]
        y, after = alone(x, state, start)  # [B, T, D]
        for cut in (1, 4):
            _, between = alone(x[:, :cut], state, start)
            later, end = alone(x[:, cut:], between, start + cut)  # [B, T - cut, D]
            try:
                worst = max(worst, near(later, y[:, cut:], alone.tolerance, "y"))
                worst = max(worst, same_state(end, after, alone.tolerance, "state"))
            except Violation as error:
                raise Violation(
                    f"a call of {POSITIONS} positions is not one of {cut} and then the others: the"
                    " state is off by one position, or lacks something that is remembered"
                    f" ({error})"
                ) from None
    return f"largest difference {worst:.1e}"


def lengths(alone: Alone) -> str:
    """Positions behind the end of a row change nothing: the state is that after the last real."""
    count = torch.tensor(LENGTHS)  # [B]
    behind = torch.arange(POSITIONS) >= count[:, None]  # [B, T]
    x = alone.x().masked_fill(behind[..., None], 7.0)  # [B, T, D]
    for state, start in alone.starts():
        y, after = alone(x, state, start, count)  # [B, T, D]
        for b, length in enumerate(LENGTHS):
            y_alone, after_alone = alone(x[b : b + 1, :length], row(state, b), start)
            near(y[b : b + 1, :length], y_alone, alone.tolerance, f"row of {length} positions")
            try:
                same_state(row(after, b), after_alone, alone.tolerance, "state")
            except Violation as error:
                raise Violation(
                    f"the mask is forgotten: what stands behind the end of a row of {length}"
                    f" positions changes its state; use call.lengths ({error})"
                ) from None
    return "states are those after the last real position"


def memory(alone: Alone) -> str:
    """What recurs is float32 in a model of bfloat16; names in ``memory`` exist."""
    half = copy.deepcopy(alone.half).to(torch.bfloat16)
    first = half.init_state(ROWS, torch.device("cpu"), torch.bfloat16)
    for name in half.memory:
        require(name in first, f"there is no '{name}' in the state, which has {[*first]}")
    _, after = half(alone.x().bfloat16(), dict(first), alone.call(0, alone.x()))
    for origin, state in (("init_state", first), ("forward", after)):
        for name, tensor in state.items():
            wanted_kind = torch.float32 if name in half.memory else torch.bfloat16
            if tensor.is_floating_point():
                require(
                    tensor.dtype == wanted_kind,
                    f"memory {name} of {origin} is {tensor.dtype} in a model of bfloat16,"
                    f" where {wanted_kind} belongs: 'memory' names {list(half.memory)}",
                )
    return f"float32: {', '.join(half.memory) or 'nothing'}"


def size(alone: Alone) -> str:
    """``growth`` is exact, and ``constant`` says whether there is any."""
    half, state = alone.half, alone.first()
    grows = dict(half.growth())
    require(grows.keys() <= state.keys(), f"growth names {[*grows]}, the state has {[*state]}")
    for length in (1, 2, POSITIONS):
        _, after = alone(alone.x()[:, :length], state, 0)
        for name, tensor in after.items():
            added = (tensor.numel() - state[name].numel()) / ROWS
            require(
                added == length * grows.get(name, 0),
                f"state bytes are wrong: {name} has {added:g} numbers more after {length}"
                f" positions, growth says {grows.get(name, 0)} a position",
            )
    growing = any(grows.values())
    require(half.constant != growing, f"constant is {half.constant}, growth is {grows}")
    return f"{sum(grows.values())} numbers more a position"


def storage(alone: Alone) -> str:
    """Tensors of the state hold their own numbers and no others."""
    count = torch.tensor(LENGTHS)  # [B]
    for state, start in alone.starts():
        for ends, length in ((None, POSITIONS), (None, 1), (count, POSITIONS)):
            _, after = alone(alone.x()[:, :length], state, start, ends)
            for name, tensor in after.items():
                held, needed = tensor.untyped_storage().nbytes(), tensor.nbytes
                require(
                    held <= needed,
                    f"state {name} is a view of a larger tensor: {needed} bytes that keep {held}"
                    " in memory; return a copy of it, .clone()",
                )
                require(
                    tensor.is_contiguous(),
                    f"state {name} is not contiguous, so its copy from a file rounds differently",
                )
    return "no views of larger tensors"


def names(alone: Alone) -> str:
    """``targets``, ``fast`` and ``vectors`` are of layers and parameters that exist."""
    half = alone.half
    linear = [f".{name}" for name, m in half.named_modules() if isinstance(m, nn.Linear)]
    parameters = [f".{name}" for name, _ in half.named_parameters()]
    for what, endings, existing in (
        ("targets", half.targets, linear),
        ("fast", half.fast, parameters),
        ("vectors", half.vectors, parameters),
    ):
        lost = [end for end in endings if not any(n.endswith(f".{end}") for n in existing)]
        kind = "linear layer" if what == "targets" else "parameter"
        require(not lost, f"{what} names {lost}, and no {kind} ends so")
    for what, left in (("publishes", half.publishes), ("offers", half.offers)):
        call, reader = alone.call(0, alone.x()), copy.deepcopy(half)
        reader.place = dataclasses.replace(half.place, demand=(*half.place.demand, *left))
        reader(alone.x(), alone.first(), call)
        missing = [name for name in left if name not in call.shared]
        require(not missing, f"{what} names {missing}, which forward leaves not in call.shared")
    return f"{len(linear)} linear layers"


def pointer(alone: Alone) -> str:
    """A half with ``points`` leaves so many ids of speech, with weights of at most 1 in all."""
    count = alone.half.points
    if not count:
        raise Skipped("it points at nothing")
    for state, start in alone.starts():
        call = alone.call(start, alone.x())
        alone.half(alone.x(), dict(state), call)
        require(POINTER in call.extra, f"points is {count}, and forward leaves no pointer")
        ids, weights = call.extra[POINTER]  # [B, T, k] each
        for what, part in (("ids", ids), ("weights", weights)):
            shape, expected = list(part.shape), [ROWS, POSITIONS, count]
            require(shape == expected, f"{what} of the pointer are {shape}, not {expected}")
        require(not ids.is_floating_point(), f"ids of the pointer are {ids.dtype}")
        total = weights.sum(-1).max().item()
        require(
            weights.min().item() >= 0 and total <= 1 + 1e-6,
            f"weights of the pointer are {weights.min():.2g} and more, {total:.3g} in all",
        )
    return f"{count} ids a position"


CHECKS = (
    ("form", "States keep names, types and rows; y has the shape of x.", form),
    ("causal", "No output depends on a later input.", causal),
    ("rows", "Rows of a batch do not know of each other.", rows),
    ("unchanged", "forward changes neither x nor the state it was given.", unchanged),
    ("steps", "step gives the numbers of forward, position by position.", steps),
    ("parts", "The state is that after the last position of a call.", splits),
    ("lengths", "What stands behind the end of a row changes nothing.", lengths),
    ("memory", "What recurs is float32 whatever the model is.", memory),
    ("growth", "The state grows as growth says.", size),
    ("storage", "The state holds no views of larger tensors.", storage),
    ("names", "Layers and parameters that are named exist.", names),
    ("pointer", "A pointer has its ids, and weights of at most 1.", pointer),
)
"""Name, property, and the check of an ``Alone``."""
