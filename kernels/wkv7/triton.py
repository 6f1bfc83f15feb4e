"""WKV-7 on a GPU: the Triton kernels as operators that PyTorch can trace, check and differentiate.

``torch.ops.wishbone.wkv7`` and ``wkv7_backward`` are custom operators with fake versions, so that
``torch.compile`` and activation checkpointing see one operation each way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wishbone.kernels.precision import compute_dtype
from wishbone.kernels.wkv7.triton_backward import backward_kernel
from wishbone.kernels.wkv7.triton_forward import forward_kernel
from wishbone.kernels.wkv7.triton_join import join_kernel
from wishbone.kernels.wkv7.triton_parts import INTERPRETED

SIZES = (16, 32, 64, 128)
"""Numbers per head the kernels know: powers of two that one program's registers can hold."""

OPERANDS = ("bf16", "tf32", "tf32x3", "ieee")
"""Types of the products' operands, from fast to exact; sums are float32 throughout."""


@dataclass(frozen=True)
class Tuning:
    """The launch settings for one head size; ``tests/gpu/test_gpu_wkv7.py`` measures others."""

    forward_warps: int
    backward_warps: int
    values: int = 0
    """Values of a head per program, 0 for all; each program repeats what all values share."""
    stages: int = 1
    """Iterations whose reads Triton may overlap."""
    chunk: int = 16
    """Positions per chunk, and between two states kept for the backward pass: 16, 32 or 64."""


TUNING = {
    (16, True): Tuning(1, 2, stages=2),
    (32, True): Tuning(4, 4, stages=2),
    (64, True): Tuning(4, 4, stages=2),
    (128, True): Tuning(8, 8),
    (16, False): Tuning(1, 2),
    (32, False): Tuning(4, 4),
    (64, False): Tuning(8, 8),
    (128, False): Tuning(8, 8, values=32),
}
"""(head size, whether operands are bf16) -> what leaves registers and shared memory enough.

Chosen by what the compiler reports for compute capability 9.0 (registers, spills, shared memory:
README.md has the table), not by time: no GPU was at hand.
"""

SMALLER = {
    (128, True): Tuning(8, 8, values=32),
    (64, False): Tuning(4, 4, values=32),
    (128, False): Tuning(8, 8, values=16),
}
"""The same for devices whose programs may have less than ``AMPLE``, as an RTX 4090's."""

AMPLE = 160 * 1024
"""Bytes of shared memory."""

SEGMENT = 256
"""Positions below which a sequence is not worth cutting: a cut doubles the work."""


def wkv7_triton(
    r: Tensor,
    g: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    offsets: Tensor | None = None,
    *,
    operands: str = "",
    segment: int = 0,
) -> tuple[Tensor, Tensor]:
    """Compute the same function as ``wkv7_reference``, K = V one of ``SIZES``, ``-0.7 <= g <= 0``.

    Shapes as there; with ``offsets`` [S + 1] the batch is one row of S sequences after another and
    state is [S, H, V, K]. ``operands`` is one of ``OPERANDS``; by default bf16 where an input is
    bfloat16 and tf32x3 otherwise. ``segment``: positions that one program walks, a multiple of 64;
    by default whatever fills the device. Raises ``ValueError`` for what it cannot compute.
    Not differentiable twice.
    """
    problem = unfit(r, g, k, v, a, b)
    if problem or segment % 64 or (operands and operands not in OPERANDS):
        raise ValueError(problem or f"segment {segment}, operands '{operands}': not possible")
    if offsets is not None and (len(k) != 1 or mask is not None):
        raise ValueError("offsets go with a batch of one row and no mask")
    keep = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (r, g, k, v, a, b, state)
    )
    operands = operands or _operands(r, g, k, v, a, b)
    offsets = None if offsets is None else offsets.to(k.device)
    y, after, _ = _forward(r, g, k, v, a, b, state, mask, offsets, operands, segment, keep)
    return y, after


def unfit(r: Tensor, g: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> str:
    """Return why the kernels cannot work on these tensors; empty where they can."""
    if k.shape != v.shape:
        return f"keys {tuple(k.shape)} and values {tuple(v.shape)}: the sizes must be equal"
    if k.shape[-1] not in SIZES:
        return f"head size {k.shape[-1]}: must be one of {SIZES}"
    if compute_dtype(r, g, k, v, a, b) == torch.float64:
        return "float64: the kernels compute in float32"
    if not (k.is_cuda or INTERPRETED.value):
        return "the tensors are not on a GPU"
    return ""


def why_not() -> str:
    """Return why the kernels cannot run on this machine; empty where they can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    if torch.version.hip is None and major < 8:
        return f"compute capability {major}.{minor}: the products need 8.0"
    return ""


def _operands(*inputs: Tensor) -> str:
    """Rounding to bfloat16 is no worse than what a bfloat16 input went through already."""
    if any(x.dtype == torch.bfloat16 for x in inputs):
        return "bf16"
    return "tf32" if any(x.dtype == torch.float16 for x in inputs) else "tf32x3"


@dataclass
class _Plan:
    """One launch: how many programs, and what they are told."""

    sequences: int
    length: int
    heads: int
    size: int
    segments: int
    segment: int
    tuning: Tuning
    operands: str

    @classmethod
    def of(cls, k: Tensor, offsets: Tensor | None, operands: str, segment: int) -> _Plan:
        batch, length, heads, size = k.shape
        sequences = batch if offsets is None else len(offsets) - 1
        tuning = _tuning(k.device, size, operands)
        if not segment:
            segment = _segment(k.device, sequences * heads, length)
        # A packed sequence may be as long as the row; nobody asks the device how long it is.
        segments = max(1, -(-length // segment)) if segment else 1
        segment = segment or max(64, -(-length // 64) * 64)
        return cls(sequences, length, heads, size, segments, segment, tuning, operands)

    @property
    def values(self) -> int:
        """Values of a head that one program works on."""
        return self.tuning.values or self.size

    @property
    def grid(self) -> tuple[int, int]:
        """Programs along sequences and segments, and along heads and values."""
        return self.sequences * self.segments, self.heads * (self.size // self.values)

    def sizes(self) -> tuple[int, int, int, int]:
        """The kernels' last run-time arguments."""
        return self.length, self.heads, self.segments, self.segment

    def constants(self, mask: Tensor | None, offsets: Tensor | None) -> dict[str, Any]:
        """The arguments that both directions compile for."""
        chunk = self.tuning.chunk
        return {
            "N": self.size,
            "V": self.values,
            "L": chunk,
            "LEVELS": chunk.bit_length() - 1,
            "PRECISION": self.operands,
            "SOLVE": "ieee" if self.operands == "ieee" else "tf32x3",
            "MASKED": mask is not None,
            "PACKED": offsets is not None,
            "num_stages": self.tuning.stages,
        }

    def shares(self, grads: list[Tensor]) -> list[Tensor]:
        """Allocate what the backward kernel writes: a share for each program of a head, v whole."""
        programs = self.size // self.values
        if programs == 1:
            return grads
        shares = [x.new_empty((programs, *x.shape), dtype=torch.float32) for x in grads]
        return [*shares[:3], grads[3], *shares[4:]]

    def lanes(self, like: Tensor) -> Tensor:
        """Room for one state per segment and head."""
        shape = (self.sequences * self.segments, self.heads, self.size, self.size)
        return like.new_empty(shape, dtype=torch.float32)

    def maps(self, like: Tensor) -> Tensor:
        """Room for what each segment does to a state."""
        shape = (self.sequences * self.segments, self.heads, 2, self.size, self.size)
        return like.new_empty(shape, dtype=torch.float32)

    def join(
        self, maps: Tensor, edge: Tensor | None, offsets: Tensor | None, reverse: bool
    ) -> Tensor:
        """The state each segment begins with, or with ``reverse`` the gradient at its end."""
        out = self.lanes(maps)
        columns = min(16, self.size)
        join_kernel[(self.sequences, self.heads, self.size // columns)](
            maps, edge, out, offsets, *self.sizes(),
            N=self.size, COLUMNS=columns, PRECISION="ieee" if self.operands == "ieee" else "tf32x3",
            PACKED=offsets is not None, EDGE=edge is not None, REVERSE=reverse,
            num_warps=4,
        )  # fmt: skip
        return out


def _tuning(device: torch.device, size: int, operands: str) -> Tuning:
    """Return the launch settings that suit this device."""
    kind = size, operands == "bf16"
    if device.type == "cuda" and kind in SMALLER:
        shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
        return TUNING[kind] if shared >= AMPLE else SMALLER[kind]
    return TUNING[kind]


def _segment(device: torch.device, programs: int, length: int) -> int:
    """Positions per program, 0 for whole sequences: cutting pays from four programs' worth on."""
    if device.type != "cuda":
        return 0
    room = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    pieces = min(room // max(1, programs), length // SEGMENT)
    return -(-length // (64 * pieces)) * 64 if pieces >= 4 else 0


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


def _kept(k: Tensor, offsets: Tensor | None, operands: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and type of the states kept for the backward pass."""
    batch, length, heads, size = k.shape
    sequences = batch if offsets is None else len(offsets) - 1
    slots = batch * length // TUNING[int(size), operands == "bf16"].chunk + sequences
    return (slots, heads, size, size), torch.bfloat16 if operands == "bf16" else torch.float32


@torch.library.custom_op("wishbone::wkv7", mutates_args=())
def _forward(
    r: Tensor, g: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor,
    state: Tensor | None, mask: Tensor | None, offsets: Tensor | None,
    operands: str, segment: int, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y [B, T, H, V], the state after [S, H, V, K], the states kept [chunks, H, K, V]."""
    inputs = _contiguous(r, g, k, v, a, b)
    state, mask, offsets = _contiguous(state, mask, offsets)
    mask = None if mask is None else mask.view(torch.int8)
    plan = _Plan.of(k, offsets, operands, segment)
    y, after, before = _fake_forward(
        r, g, k, v, a, b, state, mask, offsets, operands, segment, keep
    )
    constants = {**plan.constants(mask, offsets), "num_warps": plan.tuning.forward_warps}
    start = state
    with _on(k):
        if plan.segments > 1:
            maps = plan.maps(k)
            forward_kernel[(*plan.grid, 2)](
                *inputs, mask, offsets, None, None, None, None, maps, *plan.sizes(),
                START=False, KEEP=False, MAP=True, **constants,
            )  # fmt: skip
            start = plan.join(maps, state, offsets, reverse=False)
        forward_kernel[(*plan.grid, 1)](
            *inputs, mask, offsets, start, y, after, before, None, *plan.sizes(),
            START=start is not None, KEEP=keep, MAP=False, **constants,
        )  # fmt: skip
    return y, after, before


@_forward.register_fake
def _fake_forward(r, g, k, v, a, b, state, mask, offsets, operands, segment, keep):
    batch, _, heads, size = k.shape
    sequences = batch if offsets is None else offsets.shape[0] - 1
    y = v.new_empty(v.shape, dtype=r.dtype)
    after = v.new_empty((sequences, heads, size, size), dtype=torch.float32)
    shape, dtype = _kept(k, offsets, operands)
    before = v.new_empty(shape if keep else (0,), dtype=dtype)
    return y, after, before


@torch.library.custom_op("wishbone::wkv7_backward", mutates_args=())
def _backward(
    r: Tensor, g: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor,
    state: Tensor | None, mask: Tensor | None, offsets: Tensor | None,
    before: Tensor, dy: Tensor | None, dafter: Tensor | None,
    operands: str, segment: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of r, g, k, v, a, b and of the state, [0] where none was given."""
    inputs = _contiguous(r, g, k, v, a, b)
    mask, offsets, dy, dafter = _contiguous(mask, offsets, dy, dafter)
    mask = None if mask is None else mask.view(torch.int8)
    plan = _Plan.of(k, offsets, operands, segment)
    *grads, dstate = _fake_backward(
        r, g, k, v, a, b, state, mask, offsets, before, dy, dafter, operands, segment
    )
    written = plan.shares(grads)
    constants = {**plan.constants(mask, offsets), "num_warps": plan.tuning.backward_warps}
    constants["DY"] = dy is not None
    end = dafter
    with _on(k):
        if plan.segments > 1:
            maps = plan.maps(k)
            backward_kernel[(*plan.grid, 2)](
                *inputs, mask, offsets, None, dy, None, *[None] * 7, maps, *plan.sizes(), 0,
                END=False, START=False, MAP=True, **constants,
            )  # fmt: skip
            end = plan.join(maps, dafter, offsets, reverse=True)
        backward_kernel[(*plan.grid, 1)](
            *inputs, mask, offsets, before, dy, end,
            *written, dstate, None, *plan.sizes(), k.numel(),
            END=end is not None, START=state is not None, MAP=False, **constants,
        )  # fmt: skip
    for shares, grad in zip(written, grads, strict=True):
        if shares is not grad:
            grad.copy_(shares.sum(0))
    return (*grads, dstate)


@_backward.register_fake
def _fake_backward(r, g, k, v, a, b, state, mask, offsets, before, dy, dafter, operands, segment):
    grads = [x.new_empty(x.shape) for x in (r, g, k, v, a, b)]
    dstate = k.new_empty(0) if state is None else state.new_empty(state.shape)
    return (*grads, dstate)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, operands, segment, _ = inputs
    before = output[2]
    ctx.mark_non_differentiable(before)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, before)
    ctx.operands, ctx.segment = operands, segment


def _differentiate(ctx: Any, dy: Tensor | None, dafter: Tensor | None, _: Any) -> tuple[Any, ...]:
    if dy is None and dafter is None:
        return (None,) * 12
    # Checkpointing hands the tensors out once.
    *tensors, before = ctx.saved_tensors
    *grads, dstate = _backward(*tensors, before, dy, dafter, ctx.operands, ctx.segment)
    return (*grads, None if tensors[6] is None else dstate, *[None] * 5)


_forward.register_autograd(_differentiate, setup_context=_setup)


def _on(x: Tensor) -> Any:
    """The device of x, where the kernels are launched."""
    return torch.cuda.device_of(x)
