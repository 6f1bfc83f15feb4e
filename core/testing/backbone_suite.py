"""Suite of backbones.

All checks use weights that look trained, float64 where the backbone can, and lengths that cross
the chunks of chunked kernels (16, 32, 64).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from inspect import getattr_static
from typing import Any

import torch
from torch import Tensor

from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.contract.errors import did_you_mean
from wishbone.core.testing.case import BATCH, LENGTH, LENGTHS, Case, build, row, same_state
from wishbone.core.testing.common import Check, Skipped, Violation, difference, near, require
from wishbone.core.testing.states import STATE_CHECKS


@torch.no_grad()
def splits(cls: Any, config: Any, module: str | None) -> str:
    """One call with T equals T calls with one and calls of any length, also from a warm state."""
    case = Case(cls, config)
    if not cls.caps_of(config).streaming:
        raise Skipped("caps.streaming is false")
    worst = 0.0
    for start in (None, case.warm()):
        for length, pieces in (
            (LENGTH, [1] * LENGTH),
            (LENGTH, [17, 1, 16, 3]),
            (150, [61, 70, 19]),
        ):
            x = case.x(length=length)  # [B, T, D]
            expected, after = case.model(x, start)  # [B, T, D]
            state, parts = start, []
            for piece in x.split(pieces, dim=1):
                y, state = case.model(piece, state)  # [B, piece, D]
                parts.append(y)
            assert state is not None
            what = f"{length} positions as {len(pieces)} calls"
            what += "" if start is None else " from a warm state"
            worst = max(worst, near(torch.cat(parts, 1), expected, case.tolerance, what))
            worst = max(worst, same_state(state, after, case.tolerance, what))
    return f"largest difference {worst:.1e} in {case.dtype}; {case.precision}"


@torch.no_grad()
def causality(cls: Any, config: Any, module: str | None) -> str:
    """Changing x at t leaves every output before t as it was, to the last bit if it is exact."""
    case = Case(cls, config)
    allowed = 0.0 if case.model.exact else case.tolerance
    for start in (None, case.warm()):
        before, _ = case.model(case.x(), start)  # [B, T, D]
        for t in (1, 16, LENGTH - 1):
            x = case.x()  # [B, T, D]
            x[:, t:] = 3 * case.x(seed=2)[:, t:] + 1
            after, _ = case.model(x, start)  # [B, T, D]
            moved = (after[:, :t] - before[:, :t]).abs() / before.abs().max().clamp(min=1)
            changed = (~(moved <= allowed)).any(2).any(0).nonzero()  # [positions, 1]
            require(
                not len(changed), f"changing position {t} changed the output of {changed[:3, 0]}"
            )
            require(
                difference(after[:, t:], before[:, t:]) > 0, f"the output at {t} ignores its input"
            )
    return "bit-equal" if case.model.exact else f"to {allowed:.0e}"


def _masks(side: str) -> Tensor:
    mask = torch.zeros(BATCH, LENGTH, dtype=torch.bool)  # [B, T]
    generator = torch.Generator().manual_seed(3)
    for b, count in enumerate(LENGTHS):
        if side == "right":
            mask[b, :count] = True
        elif side == "left":
            mask[b, LENGTH - count :] = True
        else:
            mask[b, torch.randperm(LENGTH, generator=generator)[:count]] = True
    return mask


def _masked(side: str) -> Any:
    @torch.no_grad()
    def run(cls: Any, config: Any, module: str | None) -> str:
        case = Case(cls, config)
        if not cls.caps_of(config).varlen:
            raise Skipped("caps.varlen is false")
        worst, mask, more = 0.0, _masks(side), case.x(length=4, seed=5)
        for start in (None, case.warm()):
            x = case.x().masked_fill(~mask[..., None], 7.0)  # [B, T, D]
            y, after = case.model(x, start, mask=mask)  # [B, T, D]
            then, _ = case.model(more, after)  # [B, 4, D]
            for b in range(BATCH):
                what = f"{side} padding, row of {LENGTHS[b]}"
                state = None if start is None else row(start, b)
                alone, state_alone = case.model(x[b : b + 1, mask[b]], state)  # [1, real, D]
                real = y[b : b + 1, mask[b]]  # [1, real, D]
                worst = max(worst, near(real, alone, case.tolerance, what))
                worst = max(worst, same_state(row(after, b), state_alone, case.tolerance, what))
                next_alone, _ = case.model(more[b : b + 1], state_alone)  # [1, 4, D]
                what += ", continued"
                worst = max(worst, near(then[b : b + 1], next_alone, case.tolerance, what))
        return f"largest difference {worst:.1e}"

    return run


@torch.no_grad()
def masked_entirely(cls: Any, config: Any, module: str | None) -> str:
    """A call in which nothing is real leaves the state as it was, and makes no NaN."""
    case = Case(cls, config)
    if not cls.caps_of(config).varlen:
        raise Skipped("caps.varlen is false")
    start = case.warm()
    mask = torch.zeros(BATCH, LENGTH, dtype=torch.bool)  # [B, T]
    y, after = case.model(case.x(), start, mask=mask)  # [B, T, D]
    require(bool(y.isfinite().all()), "outputs of masked positions are not finite")
    same_state(after, start, 0.0, "a call with nothing real")
    return "state unchanged"


def gradient(cls: Any, config: Any, module: str | None) -> str:
    """The gradient reaches x and the first state and agrees with finite differences."""
    case = Case(cls, config)
    if not case.narrow:
        return _slopes(case, 1e-6, 1e-5, False)
    if not case.inside:
        return _slopes(case, 1e-2, 3e-2, False)
    try:
        return _slopes(case, 1e-6, 1e-5, False)
    except Violation:
        # small steps drown in float32
        return _slopes(case, 1e-2, 3e-2, True)


def _slopes(case: Case, step: float, tolerance: float, along: bool) -> str:
    """Compare slopes with differences over ``step``, in directions that chance gives.

    ``along`` turns them towards the slope: where steps are coarse, a chance direction hides much.
    """
    x = case.x(2, 19).requires_grad_()  # [2, 19, D]
    with torch.no_grad():
        start = {name: t.clone() for name, t in case.warm(2).items()}
    names = [name for name, t in start.items() if t.is_floating_point() and t.numel()]
    leaves = {name: start[name].clone().requires_grad_() for name in names}
    weights = case.x(2, 19, seed=9)  # [2, 19, D]

    def loss(x: Tensor, state: State) -> Tensor:
        y, after = case.model(x, {**start, **state})  # [2, 19, D]
        sums = (t.double().square().mean() for t in after.values() if t.is_floating_point())
        return (y * weights).sum().double() + sum(sums)  # []

    tensors = [x, *leaves.values()]
    slopes = torch.autograd.grad(loss(x, leaves), tensors, allow_unused=True)
    worst = 0.0
    for index, (name, tensor, slope) in enumerate(
        zip(["x", *names], tensors, slopes, strict=True), start=20
    ):
        if slope is None or not slope.any():
            if case.model.differentiable:
                raise Violation(f"no gradient reaches {name}")
            slope = torch.zeros_like(tensor)  # what differences have to say of bits, too
        generator = torch.Generator().manual_seed(index)
        way = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if along:
            way = way / way.norm() + slope.double() / slope.double().norm()
        way = (way / way.norm()).to(tensor)  # direction of length 1, shape of tensor
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                moved = [t.detach() for t in tensors]
                moved[index - 20] = moved[index - 20] + sign * step * way
                sides.append(loss(moved[0], dict(zip(names, moved[1:], strict=True))))
        measured = ((sides[0] - sides[1]) / (2 * step)).item()
        claimed = (slope * way).sum().item()
        # Where the slope is none by nature, differences still have the rounding of the loss.
        least = 1e-8 if slope.any() else 1.0
        error = abs(measured - claimed) / max(abs(measured), slope.norm().item() / 10, least)
        require(error < tolerance, f"{name}: slope {claimed:.6g}, measured {measured:.6g}")
        worst = max(worst, error)
    steps = f"; steps of {step:g} because {case.narrow}" if step > 1e-6 else ""
    return f"{len(tensors)} tensors, largest relative error {worst:.1e}{steps}"


def parameters(cls: Any, config: Any, module: str | None) -> str:
    """Builds on the meta device, and has as many parameters as its formula says."""
    with torch.device("meta"):
        model = cls(config)
    devices = {t.device.type for t in model.state_dict().values()}
    require(devices <= {"meta"}, f"a meta build holds real tensors on {devices - {'meta'}}")
    count = sum(parameter.numel() for parameter in model.parameters())
    stated = cls.count_parameters(config)
    require(count == stated, f"{count} parameters, but count_parameters says {stated}")
    groups = model.parameter_groups(1e-3, 0.1)
    grouped = sorted(id(p) for group in groups for p in group["params"])
    every = sorted(id(p) for p in model.parameters() if p.requires_grad)
    require(grouped == every, "parameter_groups does not hold every parameter exactly once")
    return f"{count} parameters"


@torch.no_grad()
def adapters(cls: Any, config: Any, module: str | None) -> str:
    """The layers that adapters may wrap exist, and the cost of a step is a positive number."""
    model = build(cls, config, torch.float32)
    linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    lost = [
        end for end in cls.caps_of(config).peft_targets if not any(n.endswith(end) for n in linear)
    ]
    require(not lost, f"caps.peft_targets names {lost}, and no linear layer ends so")
    flops = [model.flops_per_position(context) for context in (0, 100)]
    require(0 < flops[0] <= flops[1], f"flops_per_position gives {flops} at 0 and 100 positions")
    return f"{flops[0]} operations a position"


@torch.no_grad()
def cost(cls: Any, config: Any, module: str | None) -> str:
    """Where the state grows, so does the stated cost of a step, which has to read it."""
    model = build(cls, config, torch.float32)
    sizes = [model.state_bytes(length) for length in (0, 100)]
    flops = [model.flops_per_position(length) for length in (0, 100)]
    require(
        sizes[0] == sizes[1] or flops[0] < flops[1],
        f"the state grows from {sizes[0]} to {sizes[1]} bytes in 100 positions, and"
        f" flops_per_position stays at {flops[0]}: count what reads the state",
    )
    return f"{flops[0]} operations at first, {flops[1]} after 100 positions"


ABSTRACT = ("count_parameters", "forward", "init_state", "state_bytes")
"""Methods that every backbone writes itself."""


def preflight(cls: Any, config: Any, module: str | None) -> str:
    """The class can be built and called as a backbone: without that no other check says much."""
    require(dataclasses.is_dataclass(getattr(cls, "Config", None)), "Config is no dataclass")
    missing = [name for name in ABSTRACT if getattr_static(cls, name) is vars(Backbone)[name]]
    require(not missing, f"not written: {', '.join(missing)}{_misspelt(cls, missing)}")
    model = build(cls, config, torch.float32)
    require(isinstance(getattr(model, "width", None), int), "self.width is not set to an int")
    x = torch.ones(2, 3, model.width)  # [2, 3, D]
    with torch.no_grad():
        result = model(x)
        pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
        require(pair, f"forward returns a {type(result).__name__}, not the pair (y, state)")
        y = result[0]
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        require(shape == (2, 3, model.width), f"y of forward is {shape}, x is (2, 3, width)")
        again = model(x)[0]  # [2, 3, D]
    require(
        torch.equal(again, y) or not bool(y.isfinite().all()),
        "two calls on the same x differ: something is drawn by chance in eval mode",
    )
    return "it can be built and called"


def _misspelt(cls: Any, missing: Sequence[str]) -> str:
    """Methods of the class whose names come near to those that are missing."""
    methods = [name for name in vars(cls) if not name.startswith("__")]
    hints = [did_you_mean(name, methods) for name in missing]
    return "; ".join(["", *dict.fromkeys(hint for hint in hints if hint)])


@torch.enable_grad()  # as in training: without it an engine may do the call
def shares(cls: Any, config: Any, module: str | None) -> str:
    """Modules that training may share out are called as modules, and nothing is named twice."""
    model = build(cls, config, torch.float32)
    parts, called = list(model.shardable()), set()
    inner_ids = {id(inner) for inner in model.modules()}
    part_ids = [id(inner) for part in parts for inner in part.modules()]
    require(inner_ids.issuperset(part_ids), "shardable names a module that is not the backbone's")
    require(len(part_ids) == len(set(part_ids)), "shardable names a module inside another")
    for part in parts:
        part.register_forward_hook(lambda part, *_: called.add(id(part)))
    model(torch.ones(1, 3, model.width))
    idle = [type(part).__name__ for part in parts if id(part) not in called]
    require(not idle, f"forward never calls these modules of shardable as modules: {idle}")
    return f"{len(parts)} parts"


@torch.no_grad()
def mixers(cls: Any, config: Any, module: str | None) -> str:
    """Mixers are called once each, in order, with vectors first in what they get and give."""
    model = build(cls, config, torch.float32)
    parts, called = list(model.mixers()), []
    if not parts:
        raise Skipped("mixers names none")
    inner_ids = {id(inner) for inner in model.modules()}
    require(all(id(part) in inner_ids for part in parts), "mixers names what is not the backbone's")
    shape = (2, 3, model.width)

    def check_shapes(part: torch.nn.Module, inputs: Any, output: Any) -> None:
        called.append(parts.index(part))
        first = output[0] if isinstance(output, tuple) else output
        for what, tensor in (("is given", inputs[0]), ("answers", first)):
            size = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            require(size == shape, f"mixer {called[-1]} {what} {size}, the input is {shape}")

    for part in parts:
        part.register_forward_hook(check_shapes)
    model(torch.ones(shape))
    require(called == list(range(len(parts))), f"forward calls the mixers {called}")
    return f"{len(parts)} mixers"


@torch.no_grad()
def low_precision(cls: Any, config: Any, module: str | None) -> str:
    """bfloat16 stays near float32, and recurrent state stays float32."""
    full = build(cls, config, torch.float32)
    half = copy.deepcopy(full).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, full.width, generator=generator).bfloat16()  # [2, 64, D]
    exact, _ = full(x.float())  # [2, 64, D]
    y, after = half(x)  # [2, 64, D]
    steps, state = [], half.init_state(2)
    for position in x.split(1, dim=1):
        out, state = half(position, state)  # [2, 1, D]
        steps.append(out)
    require(y.dtype == torch.bfloat16, f"a bfloat16 model answers in {y.dtype}")
    worst = 0.0
    for what, output in (("one call", y), ("steps", torch.cat(steps, 1))):
        error = (output.double() - exact.double()).norm() / exact.double().norm()  # []
        # Rounding to 8 bits gives 0.2 % a step of the way; a few layers add up to a few percent.
        near_enough = bool(error < full.rounding) or not full.differentiable
        require(near_enough, f"{what}: relative error {error:.3f} against float32")
        worst = max(worst, error.item())
    for name in _recurrent(full, after):
        for origin, output in (("init_state", half.init_state(2)), ("forward", after)):
            kind = output[name].dtype
            require(kind == torch.float32, f"{origin}: recurrent state {name} is {kind}")
    return f"relative error {worst:.4f}"


def _recurrent(model: Backbone, state: State) -> list[str]:
    """Name the parts of a state that recur: as the model says, or the largest of a constant one."""
    if model.memory is not None:
        return [name for name in state if name.endswith(model.memory)]
    if not state or not model.caps.constant_state:
        return []
    return [max(state, key=lambda name: state[name].numel())]


PREFLIGHT = "preflight"
"""Name of the check that the others wait for."""

CHECKS = (
    Check(PREFLIGHT, "It can be built and called as a backbone.", preflight),
    Check("splits", "One call equals any split of it, from any state.", splits),
    Check("causality", "No output depends on a later input.", causality),
    Check("mask_right", "Padding on the right changes nothing.", _masked("right")),
    Check("mask_left", "Padding on the left changes nothing.", _masked("left")),
    Check("mask_mixed", "Masked positions anywhere change nothing.", _masked("mixed")),
    Check("mask_all", "A call with nothing real changes nothing.", masked_entirely),
    *STATE_CHECKS,
    Check("gradient", "Gradients of x and of the first state are right.", gradient),
    Check("parameters", "Builds on meta; the parameter formula is exact.", parameters),
    Check("adapters", "Adapter targets exist; the cost of a step is stated.", adapters),
    Check("cost", "A step costs more where the state grows.", cost),
    Check("shares", "forward calls the modules of shardable.", shares),
    Check("mixers", "Mixers mix positions and are called in order.", mixers),
    Check("low_precision", "bfloat16 stays near float32, with float32 state.", low_precision),
)
