"""Suite of backbones, the checks of states: they can be copied, stored, picked and stepped."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from wishbone.core.contract.backbone import State
from wishbone.core.model.state_batch import copied, pick, rows_may_differ, write_rows
from wishbone.core.testing.case import BATCH, Case, build, same_state
from wishbone.core.testing.common import Check, Skipped, Violation, near, require


def _continue_equally(case: Case, a: State, b: State, what: str, allowed: float = 0.0) -> None:
    """Both states must continue alike to the last bit, or to ``allowed``."""
    batch = len(next(iter(a.values()))) if a else BATCH
    more = case.x(batch, 7, seed=4)  # [B, 7, D]
    y, after = case.model(more, a)  # [B, 7, D]
    expected, expected_after = case.model(more, b)  # [B, 7, D]
    near(y, expected, allowed, what)
    same_state(after, expected_after, allowed, what)


@torch.no_grad()
def form(cls: Any, config: Any, module: str | None) -> str:
    """A state is a flat dictionary of tensors, batch first, of the same kinds all the way."""
    case = Case(cls, config)
    first, warm = case.model.init_state(BATCH, dtype=case.dtype), case.warm()
    require(first.keys() == warm.keys(), "the state after a call has other entries than the first")
    for name, tensor in warm.items():
        require(type(tensor) is torch.Tensor, f"{name} is a {type(tensor).__name__}")
        require(tensor.ndim > 0 and tensor.shape[0] == BATCH, f"{name} is not batch first")
        kinds = first[name].dtype, tensor.dtype
        require(kinds[0] == kinds[1], f"{name} begins as {kinds[0]} and goes on as {kinds[1]}")
    y, after = case.model(case.x(), first)  # [B, T, D]
    expected, expected_after = case.model(case.x())  # [B, T, D]
    near(y, expected, case.tolerance, "init_state against no state")
    same_state(after, expected_after, case.tolerance, "init_state against no state")
    return f"{len(warm)} tensors"


@torch.no_grad()
def file(cls: Any, config: Any, module: str | None) -> str:
    """A state written by safetensors and read again continues to the last bit.

    In float64 to a rounding: memory read from a file may be aligned in another way.
    """
    from safetensors.torch import load_file, save_file

    case = Case(cls, config)
    state = case.warm()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        again = load_file(path)
    same_state(again, state, 0.0, "a state from a file")
    # what a file is read to may lie at another alignment, where sums are taken in another order
    _continue_equally(case, copied(again), copied(state), "a state from a file")
    y, after = case.model(case.x(length=7, seed=4), again)  # [B, 7, D]
    expected, expected_after = case.model(case.x(length=7, seed=4), state)  # [B, 7, D]
    near(y, expected, case.tolerance, "a state from a file, where it was read to")
    same_state(after, expected_after, case.tolerance, "a state from a file, where it was read to")
    return "bit-equal"


@torch.no_grad()
def fork(cls: Any, config: Any, module: str | None) -> str:
    """Two continuations of one state do not disturb each other; ``forward`` changes nothing."""
    case = Case(cls, config)
    state, x = case.warm(), case.x()
    before, x_before = copied(state), x.clone()
    for length in (1, x.shape[1]):
        case.model(x[:, :length], state)
        near(x, x_before, 0.0, "x after forward")
        for name in state:
            near(state[name], before[name], 0.0, f"{name} after forward")
    _, ahead = case.model(x[:, :1], state)  # x[:, :1] is [B, 1, D]
    ahead_before = copied(ahead)
    for _ in range(2):
        case.model.step_(x[:, :1], ahead)
    for name in state:
        near(state[name], before[name], 0.0, f"{name} after step_ on a state made from it")
    _continue_equally(case, state, before, "a forked state")
    _, again = case.model(x[:, :1], state)
    same_state(again, ahead_before, 0.0, "a second continuation")
    return "bit-equal"


@torch.no_grad()
def reorder(cls: Any, config: Any, module: str | None) -> str:
    """Rows picked by ``index_select`` continue as they would have in their own place."""
    case = Case(cls, config)
    order = torch.tensor([2, 0, 2, 1])  # [4]
    state, more = case.warm(), case.x(length=7, seed=4)
    y, after = case.model(more, state)  # [B, 7, D]
    more_picked = more.index_select(0, order)  # [4, 7, D]
    y_picked, after_picked = case.model(more_picked, pick(state, order))  # [4, 7, D]
    near(y_picked, y.index_select(0, order), case.tolerance, "reordered rows")
    same_state(after_picked, pick(after, order), case.tolerance, "reordered rows")
    return "rows keep their own past"


@torch.no_grad()
def step_in_place(cls: Any, config: Any, module: str | None) -> str:
    """``step_`` gives the numbers of ``forward`` and leaves the state where it was handed in."""
    case = Case(cls, config)
    worst = 0.0
    for start in (case.model.init_state(BATCH, dtype=case.dtype), case.warm()):
        x = case.x(length=70)  # [B, 70, D]
        at_once, after = case.model(x, start)  # [B, 70, D]
        stepped = copied(start)
        outputs = [case.model.step_(position, stepped) for position in x.split(1, dim=1)]
        worst = max(worst, near(torch.cat(outputs, 1), at_once, case.tolerance, "step_"))
        try:
            worst = max(worst, same_state(stepped, after, case.tolerance, "step_"))
        except Violation as error:
            raise Violation(f"the state handed to step_ is not updated: {error}") from None
        _continue_equally(case, stepped, copied(stepped), "the copy of a stepped state")
    return f"largest difference {worst:.1e}"


@torch.no_grad()
def step_rewritten(cls: Any, config: Any, module: str | None) -> str:
    """Rows written into the entries between two steps are what the next step goes on from."""
    case = Case(cls, config)
    if not rows_may_differ(case.model):
        raise Skipped("rows of its state cannot differ in length")
    x = case.x(length=8)  # [B, T, D]
    stepped = case.model.init_state(BATCH, dtype=case.dtype)
    for position in x[:, :5].split(1, dim=1):
        case.model.step_(position, stepped)
    other = case.warm(1, 4)
    write_rows(stepped, [1], other)
    expected = copied(stepped)
    worst = 0.0
    for position in x[:, 5:].split(1, dim=1):
        y = case.model.step_(position, stepped)  # [B, 1, D]
        y_expected, expected = case.model(position, expected)  # [B, 1, D]
        worst = max(worst, near(y, y_expected, case.tolerance, "step_ after a row was written"))
        alone, other = case.model(position[1:2], other)  # [1, 1, D]
        worst = max(worst, near(y[1:2], alone, case.tolerance, "step_ of a written row"))
    return f"largest difference {worst:.1e}"


@torch.no_grad()
def size(cls: Any, config: Any, module: str | None) -> str:
    """``state_bytes`` is exact: constant where ``caps`` says so, else growing by equal amounts."""
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        model = build(cls, config, dtype)
        x = torch.zeros(2, 40, model.width, dtype=dtype)  # [2, 40, D]
        sizes = [model.state_bytes(length, dtype=dtype) for length in (0, 1, 2, 40)]
        states = [model.init_state(2), *(model(x[:, :length])[1] for length in (1, 2, 40))]
        for stated, state, length in zip(sizes, states, (0, 1, 2, 40), strict=True):
            measured = sum(t.numel() * t.element_size() for t in state.values()) / 2
            require(
                measured == stated,
                f"{measured:.0f} bytes after {length} positions in {dtype},"
                f" state_bytes says {stated}",
            )
        growth = sizes[2] - sizes[1]
        if cls.caps_of(config).constant_state:
            require(growth == 0, f"caps.constant_state, yet a position adds {growth} bytes")
        require(sizes[3] - sizes[2] == 38 * growth, "the state does not grow by equal amounts")
    return f"{sizes[0]} bytes and {sizes[2] - sizes[1]} more a position in bfloat16"


@torch.no_grad()
def device(cls: Any, config: Any, module: str | None) -> str:
    """``init_state`` makes the state on the device that it is given."""
    model = build(cls, config, torch.float32)
    lost = [n for n, t in model.init_state(2, device="meta").items() if t.device.type != "meta"]
    require(not lost, f"init_state(2, device='meta') makes {', '.join(lost)} elsewhere")
    return "on the device asked for"


@torch.no_grad()
def long_run(cls: Any, config: Any, module: str | None) -> str:
    """A long prompt gives finite numbers, in pieces the same, and a state of the stated size."""
    details = []
    for dtype, tolerance in ((torch.float32, 0.01), (torch.bfloat16, 0.1)):
        model = build(cls, config, dtype)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, LONG, model.width, generator=generator).to(dtype)  # [1, LONG, D]
        at_once, after = model(x)  # [1, LONG, D]
        wrong = (~at_once.isfinite()).any(2)[0].nonzero()  # [positions, 1]
        require(
            not len(wrong),
            f"the output at position {wrong[0, 0] if len(wrong) else 0} of {LONG} is not finite in"
            f" {dtype}",
        )
        held = _held_bytes(after)
        stated = model.state_bytes(LONG, dtype=dtype)
        require(
            held <= PINNED * stated + SLACK,
            f"the state after {LONG} positions keeps {held} bytes of memory alive, state_bytes says"
            f" {stated}: clone what is a view of the prompt",
        )
        if not cls.caps_of(config).streaming:
            continue
        state, parts = None, []
        for piece in x.split([LONG // 3, 1, LONG - LONG // 3 - 1], dim=1):
            y, state = model(piece, state)  # [1, piece, D]
            parts.append(y)
        norm = at_once.double().norm()
        error = ((torch.cat(parts, 1).double() - at_once.double()).norm() / norm).item()
        require(error < tolerance, f"{LONG} positions in pieces: off by {error:.1e} in {dtype}")
        details.append(f"{error:.1e} in {str(dtype).removeprefix('torch.')}")
    return f"{LONG} positions, in pieces off by {' and '.join(details) or 'nothing asked'}"


def _held_bytes(state: State) -> int:
    """Bytes of memory that the tensors of a state keep alive, shared memory once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in state.values()}
    return sum(storage.nbytes() for storage in storages.values())


LONG = 2000
"""Positions of a long prompt: 80 seconds of speech at 25 codes a second."""
PINNED, SLACK = 4, 2**15
"""A cache may have room for more, up to so many times what it holds, and so many bytes."""

STATE_CHECKS = (
    Check("state_form", "States are flat dictionaries of tensors, batch first.", form),
    Check("state_file", "A state survives a file.", file),
    Check("state_fork", "forward changes neither x nor the state it was given.", fork),
    Check("state_reorder", "Rows of a state can be picked and reordered.", reorder),
    Check("step_in_place", "step_ gives the numbers of forward.", step_in_place),
    Check("step_rewritten", "Rows written between two steps count.", step_rewritten),
    Check("state_size", "state_bytes is exact.", size),
    Check("state_device", "init_state makes the state on the device it is given.", device),
    Check("long_run", "A long prompt stays finite and pins nothing.", long_run),
)
