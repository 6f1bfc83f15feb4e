"""What a half of a block does at one position, written down for the C++ step of ``recipe.cpp``.

A half with a method ``recipe(recipe, x)`` calls the operations below in order, as its ``forward``
calls PyTorch's; each returns where its result will lie. Nothing is computed here: the engine
"native" of a stack runs the list at every step. Weights are copied when it is written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wishbone.kernels.linear.native import LANES, Matrix, Pack

CODES = (
    "product", "norm", "map", "pair", "mix", "convolution", "load", "store", "memory", "divide",
    "turn",
)  # fmt: skip
NORMS = ("rms", "layer", "unit")
MAPS = (
    "same", "silu", "sigmoid", "tanh", "softplus", "log_sigmoid", "exp", "elu_1", "squared_relu",
)  # fmt: skip
PAIRS = ("add", "subtract", "multiply", "larger")
PER_HEAD, PER_CHANNEL, DELTA, EARLY, ONES = (1 << bit for bit in range(5))
LARGEST = 1024
"""Numbers of a key for which recipe.cpp has room on its stack."""


class Op(ctypes.Structure):
    """``Op`` of recipe.cpp."""

    _fields_ = [
        ("code", ctypes.c_int64),
        ("kind", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("out", ctypes.c_int64),
        ("inputs", ctypes.c_int64 * 6),
        *((name, ctypes.c_int64) for name in ("heads", "groups", "values", "keys")),
        *((name, ctypes.c_int64) for name in ("repeat", "part", "flags")),
        *((name, ctypes.c_float) for name in ("scale", "factor", "eps")),
        ("p", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("matrix", Matrix),
    ]


@dataclass(frozen=True)
class Row:
    """Numbers of one position, at a place of the scratch memory."""

    place: int
    size: int

    def split(self, *sizes: int) -> list[Row]:
        """Cut into stretches of these sizes."""
        places = [self.place + sum(sizes[:index]) for index in range(len(sizes))]
        return [Row(place, size) for place, size in zip(places, sizes, strict=True)]


class Recipe:
    """The operations of a stack at one position, in order."""

    def __init__(self, weights: str) -> None:
        """``weights`` is the type matrices are stored in, as in ``accelerate``."""
        self.weights = weights
        # Decays and gates are made by small matrices: eight bits are too few for them.
        self.careful = "float32" if weights == "float32" else "bfloat16"
        self.pack = Pack()
        self.ops: list[Op] = []
        self.parts: list[str] = []
        """Names of the parts of the state that are read and written."""
        self.prefix = ""
        """Beginning of the names of the block that is being written down."""
        self.used = self.width = 0
        """Numbers of a row of scratch memory in use, and the most that ever were."""
        self.shared: dict[str, Row] = {}
        """What one half leaves for later ones, as in ``Call.shared``."""
        self.columns = 0
        """Columns of the widest matrix."""

    def room(self, size: int) -> Row:
        """Take scratch memory; products write whole groups of 16 numbers."""
        row = Row(self.used, size)
        self.used += size + -size % LANES
        self.width = max(self.width, self.used)
        return row

    def linear(self, x: Row, layer: nn.Linear, *, careful: bool = False) -> Row:
        """Multiply by a layer's weight and add its bias; ``careful`` never in eight bits."""
        return self.product(x, layer.weight, layer.bias, careful=careful)

    def product(
        self, x: Row, weight: Tensor, bias: Tensor | None = None, *, careful: bool = False
    ) -> Row:
        """Multiply by weight [R, C] and add bias [R]."""
        op = self._add("product", weight.shape[0], x)
        kind = self.careful if careful else self.weights
        self.pack.matrix(weight, kind, op.matrix)
        self.columns = max(self.columns, op.matrix.columns)
        # what lies behind x is multiplied by zeros, and must be there
        self.width = max(self.width, x.place + op.matrix.columns)
        self._vectors(op, bias)
        return self._out(op)

    def norm(
        self,
        x: Row,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        kind: str = "rms",
        eps: float,
        groups: int = 1,
        factor: float = 1.0,
    ) -> Row:
        """Norm each of ``groups`` stretches; weight and bias are of one stretch or of all.

        "rms" and "layer" are the usual norms; "unit" is x / sqrt(sum of squares + eps) times
        ``factor``.
        """
        op = self._add("norm", x.size, x, kind=NORMS.index(kind), groups=groups)
        op.eps, op.factor = eps, factor
        self._vectors(op, _filled(weight, x.size), _filled(bias, x.size))
        return self._out(op)

    def map(
        self,
        kind: str,
        x: Row,
        *,
        scale: float = 1.0,
        plus: Tensor | None = None,
        factor: float = 1.0,
        times: Tensor | None = None,
    ) -> Row:
        """Compute factor times f(scale x + plus), number by number; f is one of ``MAPS``."""
        op = self._add("map", x.size, x, kind=MAPS.index(kind))
        op.scale, op.factor = scale, factor
        self._vectors(op, _filled(plus, x.size), _filled(times, x.size))
        return self._out(op)

    def pair(self, kind: str, x: Row, y: Row) -> Row:
        """Join x with y by one of ``PAIRS``; a number of a shorter y is for several of x."""
        op = self._add("pair", x.size, x, y, kind=PAIRS.index(kind))
        op.repeat = x.size // y.size
        return self._out(op)

    def constant(self, vector: Tensor) -> Row:
        """Make a row of the same numbers at every position."""
        zero = self.room(vector.numel())
        # zero times whatever lies there, which is never infinite
        return self.map("same", zero, scale=0.0, plus=vector)

    def mix(self, x: Row, y: Row, share: Tensor | None = None, more: Row | None = None) -> Row:
        """Go from x towards y by ``share`` [D] + ``more``."""
        op = self._add("mix", x.size, x, y, more)
        self._vectors(op, share)
        return self._out(op)

    def repeat(self, x: Row, size: int, times: int) -> Row:
        """Repeat each stretch of ``size`` numbers ``times`` in a row."""
        out = self.room(x.size * times)
        for index in range(x.size // size * times):
            op = self._add("map", size, Row(x.place + index // times * size, size))
            op.out = out.place + index * size
        return out

    def convolution(self, x: Row, name: str, weight: Tensor, bias: Tensor | None) -> Row:
        """Compute silu of a causal convolution [C, W]; the state's part ``name`` is [W - 1, C]."""
        op = self._add("convolution", x.size, x, part=self._part(name), values=weight.shape[1])
        self._vectors(op, weight.T, bias)
        return self._out(op)

    def load(self, name: str, size: int) -> Row:
        """Read a part of the state as it was before this position."""
        return self._out(self._add("load", size, part=self._part(name)))

    def store(self, name: str, x: Row) -> None:
        """Write a part of the state."""
        self._add("store", x.size, x, part=self._part(name))

    def memory(
        self,
        name: str,
        shape: tuple[int, int, int],
        r: Row,
        k: Row,
        v: Row,
        g: Row | None = None,
        a: Row | None = None,
        b: Row | None = None,
        *,
        bonus: Tensor | None = None,
    ) -> Row:
        """Do what ``kernels.recurrence`` does at one position, of a matrix of shape (H, V, K).

        g is one number a head, or as long as k. v may lack the last number of each head, which is 1
        then. With ``bonus`` [H, K], y reads the state as it was, and v weighs r . (bonus k) more.
        """
        heads, values, keys = shape
        if keys > LARGEST:
            raise ValueError(f"keys of {keys} numbers, where it has room for {LARGEST}")
        op = self._add("memory", heads * values, r, k, v, g, a, b, part=self._part(name))
        op.heads, op.values, op.keys, op.groups = heads, values, keys, k.size // keys
        if g is not None:
            op.flags |= PER_HEAD if g.size == heads and keys > 1 else PER_CHANNEL
        op.flags |= DELTA if a is not None else 0
        op.flags |= ONES if v.size == heads * (values - 1) else 0
        op.flags |= EARLY if bonus is not None else 0
        self._vectors(op, bonus)
        return self._out(op)

    def divide(self, x: Row, heads: int, eps: float, least: Row | None = None) -> Row:
        """Divide each head of V + 1 numbers by its last one + eps, which is left out.

        With ``least``, by the larger of its size and exp(-least).
        """
        values = x.size // heads - 1
        op = self._add("divide", heads * values, x, least, heads=heads, values=values)
        op.eps = eps
        return self._out(op)

    def turn(self, x: Row, frequencies: Tensor, factor: float = 1.0) -> Row:
        """Turn each head by its position times frequencies [K / 2] in float64, times ``factor``."""
        keys = 2 * len(frequencies)
        op = self._add("turn", x.size, x, heads=x.size // keys, keys=keys)
        op.factor = factor
        high = frequencies.float()  # [K / 2]
        self._vectors(op, high, frequencies - high)
        return self._out(op)

    def add_into(self, x: Row, y: Row) -> None:
        """Add y to x where x lies."""
        self._add("pair", x.size, x, y).out = x.place

    def _add(self, code: str, n: int, *inputs: Row | None, **sizes: int) -> Op:
        op = Op(code=CODES.index(code), n=n, groups=1, repeat=1, scale=1.0, factor=1.0)
        places = [-1 if row is None else row.place for row in inputs]
        op.inputs = (ctypes.c_int64 * 6)(*places, *[-1] * (6 - len(places)))
        if not places:
            op.inputs[0] = 0
        for name, value in sizes.items():
            setattr(op, name, value)
        self.ops.append(op)
        return op

    def _out(self, op: Op) -> Row:
        row = self.room(op.n)
        op.out = row.place
        return row

    def _vectors(self, op: Op, *vectors: Tensor | None) -> None:
        for name, vector in zip("pq", vectors, strict=False):
            if vector is not None:
                self.pack.vector(vector, op, name)

    def _part(self, name: str) -> int:
        name = self.prefix + name
        if name not in self.parts:
            self.parts.append(name)
        return self.parts.index(name)


def _filled(vector: Tensor | None, size: int) -> Tensor | None:
    """A vector of one stretch or of all -> of all."""
    if vector is None:
        return None
    vector = vector.detach().flatten()
    return vector.repeat(size // len(vector)) if len(vector) < size else vector


def packed(ops: Sequence[Op]) -> ctypes.Array[Op]:
    """Put operations side by side, as recipe.cpp walks them."""
    return (Op * len(ops))(*ops)


def norm_of(recipe: Recipe, layer: nn.Module, x: Row) -> Row:
    """Write down a norm of the stack. Raises ``ValueError`` for one it does not know."""
    if isinstance(layer, nn.LayerNorm):
        return recipe.norm(x, layer.weight, layer.bias, kind="layer", eps=layer.eps)
    if isinstance(layer, nn.RMSNorm):
        eps = torch.finfo(torch.float32).eps if layer.eps is None else layer.eps
        return recipe.norm(x, layer.weight, eps=eps)
    raise ValueError(f"there is no recipe of {type(layer).__name__}")
