"""The product in C++: packing matrices once, and reading them as fast as memory gives them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wishbone.kernels.linear.build import library
from wishbone.kernels.linear.product import KINDS, narrowed

SOURCE = Path(__file__).parent / "linear.cpp"
LANES = 16
"""Rows that lie side by side in a packed matrix."""
QUAD = 4
"""Bytes of one lane: columns of int8 that are multiplied at once."""
LINE = 64
"""Bytes between the starts of tensors: a cache line."""
LONGEST = 65536
"""Columns of an int8 matrix: more could overflow the 32 bits of a sum."""


def threads() -> int:
    """Return the threads of one step: 1, or the number in ``WISHBONE_THREADS``.

    One core reads nearly as fast as its memory gives; others wait for it at every phase, for long
    where they have to share their core.
    """
    setting = os.environ.get("WISHBONE_THREADS", "1")
    return max(1, int(setting)) if setting.isdecimal() else 1


class Matrix(ctypes.Structure):
    """``Matrix`` of matvec.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("kind", ctypes.c_int64),
    ]


class Pack:
    """Matrices and vectors, one after another in the order they are read.

    Add everything, call ``close`` once, and use the addresses it fills in. Nothing refers to the
    tensors that were added: later changes to them are not seen.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ctypes.Structure | None, str]] = []
        self.memory: Tensor | None = None

    def matrix(self, weight: Tensor, kind: str, description: Matrix) -> None:
        """Add a weight [R, C], stored as ``kind``, padded with zeros; fill in ``description``."""
        rows, columns = (size + -size % LANES for size in weight.shape)
        if kind == "int8" and columns > LONGEST:
            raise ValueError(f"int8 rows of {columns} numbers; {LONGEST} is the most")
        padded = weight.new_zeros(rows, columns)
        padded[: weight.shape[0], : weight.shape[1]] = weight.detach()
        values, scale = narrowed(padded.cpu(), kind)
        description.rows, description.columns, description.kind = rows, columns, KINDS.index(kind)
        self._parts.append((interleaved(values), description, "data"))
        if scale is not None:
            self._parts.append((scale, description, "scale"))

    def vector(self, values: Tensor, into: ctypes.Structure, field: str) -> None:
        """Add numbers as float32; ``into.field`` gets their address."""
        self._parts.append((values.detach().float().cpu().contiguous().flatten(), into, field))

    def close(self, large_pages: ctypes._CFuncPtr | None = None) -> None:
        """Put everything into one piece of memory and fill in the addresses."""
        sizes = [part.nbytes + -part.nbytes % LINE for part, _, _ in self._parts]
        self.memory = torch.empty(sum(sizes) + 2 * LINE, dtype=torch.uint8)
        start = self.memory.data_ptr()
        if large_pages is not None:
            large_pages(start, len(self.memory))
        at = -start % LINE
        for (part, into, field), size in zip(self._parts, sizes, strict=True):
            piece = self.memory[at : at + part.nbytes]
            piece.copy_(part.contiguous().view(-1).view(torch.uint8))
            setattr(into, field, start + at)
            at += size
        self._parts.clear()


def interleaved(values: Tensor) -> Tensor:
    """A matrix [R, C] in the order of matvec.h: 16 rows in lanes, columns that fill a word."""
    rows, columns = values.shape
    group = QUAD // values.itemsize
    if values.dtype == torch.int8:
        values = (values.to(torch.int16) + 128).to(torch.uint8)
    return values.view(rows // LANES, LANES, columns // group, group).transpose(1, 2).contiguous()


class Native:
    """The library of linear.cpp: products with packed matrices, and what other libraries need."""

    def __init__(self, *, build: bool) -> None:
        """Load the library. Raises ``NativeMissing`` where none is built and none may or can be."""
        self.library = library("linear", SOURCE, build=build)
        self.large_pages = self.library.wishbone_large_pages
        self.large_pages.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        self._matvec = self.library.wishbone_matvec
        self._matvec.argtypes = [
            ctypes.POINTER(Matrix), ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64,
        ]  # fmt: skip
        self._matvec.restype = None

    @property
    def vnni(self) -> bool:
        """True where int8 products run on the processor's own instruction for them."""
        return bool(self.library.wishbone_vnni())

    def pack(self, weight: Tensor, kind: str) -> Packed:
        """Pack a weight [R, C] for ``times``."""
        return Packed(self, weight, kind)

    def times(self, packed: Packed, x: Tensor, threads: int = 1) -> Tensor:
        """Multiply x [B, C] float32 -> x W^T [B, R]."""
        matrix = packed.matrix
        x = x.to(torch.float32)
        if x.shape[1] != matrix.columns:
            x = torch.nn.functional.pad(x, (0, matrix.columns - x.shape[1]))
        x = x.contiguous()
        out = torch.empty(len(x), matrix.rows)
        # of this call alone: threads share this object
        scratch = torch.empty(8 * matrix.columns * threads, dtype=torch.int8)
        self._matvec(matrix, len(x), x.data_ptr(), out.data_ptr(), scratch.data_ptr(), threads)
        return out[:, : packed.rows]


class Packed:
    """A matrix in its own memory."""

    def __init__(self, native: Native, weight: Tensor, kind: str) -> None:
        self.rows, self.columns = weight.shape
        self.kind = kind
        self.pack = Pack()
        self.matrix = Matrix()
        self.pack.matrix(weight, kind, self.matrix)
        self.pack.close(native.large_pages)


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses of tensors as an array of pointers."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
