"""Matrix memories on a GPU: the Triton kernels as operators that PyTorch can trace.

``torch.ops.wishbone.recurrence`` and ``recurrence_backward`` are custom operators with fake
versions, so that ``torch.compile`` and activation checkpointing see one operation each way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wishbone.kernels.precision import compute_dtype
from wishbone.kernels.recurrence.triton_backward import backward_kernel
from wishbone.kernels.recurrence.triton_forward import forward_kernel
from wishbone.kernels.wkv7.triton_parts import INTERPRETED

LARGEST = 128
"""Numbers of a key that one program's registers can hold beside its values."""

LOWEST = -20.0
"""Logarithm of the strongest decay, as on a CPU."""

OPERANDS = ("bf16", "tf32", "tf32x3", "ieee")
"""Types of the products' operands, from fast to exact; sums are float32 throughout."""


@dataclass(frozen=True)
class Tuning:
    """The launch settings for one class of memory."""

    forward_warps: int
    backward_warps: int
    tile: int
    """Most values of a head per program; each program repeats what all values share."""
    chunk: int = 16
    """Positions per chunk, and between two states kept for the backward pass."""
    stages: int = 1
    """Iterations whose reads Triton may overlap."""


TUNING = {
    (64, False, True): Tuning(4, 8, 64),
    (64, True, True): Tuning(8, 8, 64),
    (64, False, False): Tuning(8, 8, 32),
    (64, True, False): Tuning(8, 8, 32),
    (128, False, True): Tuning(8, 8, 32),
    (128, True, True): Tuning(8, 8, 32),
    (128, False, False): Tuning(8, 8, 32),
    (128, True, False): Tuning(8, 8, 32),
}
"""(most numbers of a key, whether there is a correction, whether operands are bf16) -> settings.

Chosen by what the compiler reports for compute capability 9.0, not by time: no GPU was at hand.
"""


def recurrence_triton(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    operands: str = "",
) -> tuple[Tensor, Tensor]:
    """Compute the same function as ``recurrence_reference``, keys of up to ``LARGEST`` numbers.

    Shapes as there; any g <= 0, which is cut off at e^-20. ``operands`` is one of ``OPERANDS``; by
    default bf16 where an input is bfloat16, tf32 under autocast and for float16, else tf32x3.
    Raises ``ValueError`` for what it cannot compute. Not differentiable twice.
    """
    problem = unfit(r, k, v, g, a, b, state)
    if problem or (operands and operands not in OPERANDS):
        raise ValueError(problem or f"operands '{operands}': must be one of {OPERANDS}")
    inputs = (r, k, v, g, a, b, state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    operands = operands or _operands(r, k, v, g, a, b)
    lengths = None if lengths is None else lengths.to(k.device)
    y, after, _ = _forward(*inputs, lengths, operands, keep)
    return y, after


def unfit(r: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> str:
    """Return why the kernels cannot work on these tensors; empty where they can."""
    if k.shape[-1] > LARGEST:
        return f"keys of {k.shape[-1]} numbers: at most {LARGEST}"
    if not v.numel() or not k.numel():
        return "there are no positions"
    if compute_dtype(r, k, v, *others) == torch.float64:
        return "float64: the kernels compute in float32"
    if not (k.is_cuda or INTERPRETED.value):
        return "the tensors are not on a GPU"
    return ""


def _operands(*inputs: Tensor | None) -> str:
    """Rounding is no worse than what an input went through already."""
    kinds = {x.dtype for x in inputs if x is not None}
    if torch.bfloat16 in kinds:
        return "bf16"
    device = next(x.device.type for x in inputs if x is not None)
    low = torch.float16 in kinds or torch.is_autocast_enabled(device)
    return "tf32" if low else "tf32x3"


@dataclass
class _Plan:
    """One launch: how many programs, and what they are told."""

    batch: int
    length: int
    heads: int
    groups: int
    keys: int
    values: int
    tile: int
    tuning: Tuning

    @classmethod
    def of(cls, k: Tensor, v: Tensor, delta: bool, operands: str) -> _Plan:
        batch, length, heads, values = v.shape
        groups, keys = k.shape[2:]
        tuning = TUNING[64 if keys <= 64 else LARGEST, delta, operands == "bf16"]
        tile = min(tuning.tile, _power(values))
        return cls(batch, length, heads, groups, keys, values, tile, tuning)

    @property
    def grid(self) -> tuple[int, int]:
        """Programs along the batch, and along heads and tiles of values."""
        return self.batch, self.heads * self.tiles

    @property
    def tiles(self) -> int:
        """Programs that share a head."""
        return -(-self.values // self.tile)

    @property
    def kept(self) -> tuple[int, ...]:
        """Shape of the states before each chunk."""
        chunks = -(-self.length // self.tuning.chunk)
        return self.batch, chunks, self.heads, self.keys, self.values

    def sizes(self) -> tuple[int | float, ...]:
        """Run-time arguments of both kernels."""
        return self.length, self.heads, self.groups, self.keys, self.values, LOWEST

    def constants(
        self, g: Tensor | None, a: Tensor | None, lengths: Tensor | None, operands: str
    ) -> dict[str, Any]:
        """The arguments that both kernels compile for."""
        return {
            "K": _power(self.keys),
            "V": self.tile,
            "L": self.tuning.chunk,
            "LEVELS": self.tuning.chunk.bit_length() - 1,
            "PRECISION": operands,
            "SOLVE": "ieee" if operands == "ieee" else "tf32x3",
            "DECAY": 0 if g is None else g.ndim - 2,
            "DELTA": a is not None,
            "RAGGED": lengths is not None,
            "num_stages": self.tuning.stages,
        }

    def shares(self, grad: Tensor, name: str) -> Tensor:
        """Room for what each program writes of a gradient that several programs have a share in."""
        per_head = self.tiles * (1 if name == "head" else self.heads // self.groups)
        if name == "whole" or per_head == 1 or not grad.numel():
            return grad
        return grad.new_empty((per_head, *grad.shape), dtype=torch.float32)


def _power(size: int) -> int:
    """The power of two from 16 that holds ``size``: what a product wants."""
    return max(16, 1 << (size - 1).bit_length())


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


@torch.library.custom_op("wishbone::recurrence", mutates_args=())
def _forward(
    r: Tensor, k: Tensor, v: Tensor, g: Tensor | None, a: Tensor | None, b: Tensor | None,
    state: Tensor | None, lengths: Tensor | None, operands: str, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y [B, T, H, V], the state after [B, H, V, K], the states kept [B, chunks, H, K, V]."""
    inputs = _contiguous(r, k, v, g, a, b)
    state, lengths = _contiguous(state, lengths)
    plan = _Plan.of(k, v, a is not None, operands)
    y, after, before = _fake_forward(r, k, v, g, a, b, state, lengths, operands, keep)
    with torch.cuda.device_of(k):
        forward_kernel[plan.grid](
            *inputs, lengths, state, y, after, before, *plan.sizes(),
            **plan.constants(g, a, lengths, operands), START=state is not None, KEEP=keep,
            num_warps=plan.tuning.forward_warps,
        )  # fmt: skip
    return y, after, before


@_forward.register_fake
def _fake_forward(r, k, v, g, a, b, state, lengths, operands, keep):
    plan = _Plan.of(k, v, a is not None, operands)
    y = v.new_empty(v.shape)
    shape = plan.batch, plan.heads, plan.values, plan.keys
    after = v.new_empty(shape, dtype=torch.float32)
    kind = torch.bfloat16 if operands == "bf16" else torch.float32
    return y, after, v.new_empty(plan.kept if keep else (0,), dtype=kind)


@torch.library.custom_op("wishbone::recurrence_backward", mutates_args=())
def _backward(
    r: Tensor, k: Tensor, v: Tensor, g: Tensor | None, a: Tensor | None, b: Tensor | None,
    lengths: Tensor | None, before: Tensor, dy: Tensor | None, dafter: Tensor | None, operands: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of r, k, v, g, a, b and of the state; [0] where none was given."""
    inputs = _contiguous(r, k, v, g, a, b)
    lengths, dy, dafter = _contiguous(lengths, dy, dafter)
    plan = _Plan.of(k, v, a is not None, operands)
    grads = _fake_backward(r, k, v, g, a, b, lengths, before, dy, dafter, operands)
    decay = "head" if g is not None and g.ndim == 3 else "key"
    names = ("key", "key", "whole", decay, "key", "key", "whole")
    written = [plan.shares(grad, name) for grad, name in zip(grads, names, strict=True)]
    with torch.cuda.device_of(k):
        backward_kernel[plan.grid](
            *inputs, lengths, before, dy, dafter, *written, *plan.sizes(),
            k.numel(), v.numel() // plan.values,
            **plan.constants(g, a, lengths, operands), DY=dy is not None, END=dafter is not None,
            num_warps=plan.tuning.backward_warps,
        )  # fmt: skip
    for shares, grad in zip(written, grads, strict=True):
        if shares is not grad:
            grad.copy_(shares.sum(0))
    return grads


@_backward.register_fake
def _fake_backward(r, k, v, g, a, b, lengths, before, dy, dafter, operands):
    plan = _Plan.of(k, v, a is not None, operands)
    grads = [k.new_empty(0) if x is None else x.new_empty(x.shape) for x in (r, k, v, g, a, b)]
    shape = plan.batch, plan.heads, plan.values, plan.keys
    return (*grads, k.new_empty(shape, dtype=torch.float32))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, operands, _ = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.operands = operands


def _differentiate(ctx: Any, dy: Tensor | None, dafter: Tensor | None, _: Any) -> tuple[Any, ...]:
    if dy is None and dafter is None:
        return (None,) * 10
    # Checkpointing hands the tensors out once.
    *tensors, lengths, before = ctx.saved_tensors
    *inputs, state = tensors
    *grads, dstate = _backward(*inputs, lengths, before, dy, dafter, ctx.operands)
    optional = [None if x is None else grad for x, grad in zip(inputs, grads, strict=True)]
    return (*optional, None if state is None else dstate.to(state.dtype), None, None, None)


_forward.register_autograd(_differentiate, setup_context=_setup)
