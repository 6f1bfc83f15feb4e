"""The engine "native" of a stack: one C++ step for all halves that wrote down what they do.

The readable step is that of the halves; ``tests/plugins/test_stack_engine.py`` compares both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wishbone.core.contract.backbone import State
from wishbone.kernels.linear.build import library
from wishbone.kernels.linear.native import Native, addresses, threads
from wishbone.plugins.engines import few
from wishbone.plugins.stack.block import LENGTH
from wishbone.plugins.stack.engines.recipe import Op, Recipe, Row, norm_of, packed

SOURCE = Path(__file__).parent / "recipe.cpp"
MOST = 16
"""Sequences a step takes. Beyond, the matrix products of PyTorch are faster than reading every
weight once for each four of them."""
KINDS = (torch.float32, torch.bfloat16, torch.float16)
"""Types of inputs and of the parts of a state that do not recur."""


class NativeStack:
    """An engine (``wishbone.plugins.engines.Engine``) for float32 sums and float32 memories."""

    narrow = False
    """States in bfloat16 are not taken."""

    def __init__(self, stack: Any, weights: str) -> None:
        """Write the list and pack the weights.

        Raises ``NativeMissing``, and ``ValueError`` where a half has no recipe.
        """
        if stack.norm_out.weight.dtype == torch.float64:
            raise ValueError("it computes in float32, the weights are float64")
        recipe = Recipe(weights)
        self.size = stack.width
        x, y = _write(stack, recipe)
        native = Native(build=True)
        self.few = few(stack)
        step = library("stack", SOURCE, build=True)
        if step.recipe_size() != ctypes.sizeof(Op):
            raise ValueError("recipe.cpp and recipe.py differ in the size of an operation")
        recipe.pack.close(native.large_pages)
        self.pack, self.ops = recipe.pack, packed(recipe.ops)
        self.names, self.width = recipe.parts, recipe.width
        self.memory = stack.memory
        self.into, self.result = x.place, y.place
        self.threads, self.whole = threads(), 8 * max(recipe.columns, 8)
        self.counts = LENGTH in stack.init_state(1, device="meta")
        self._step = step.recipe_step
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._step.argtypes = [pointer, *[count] * 4, *[pointer] * 5, count]
        self._step.restype = None

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the backbone has weights of its own, so it begins as plain PyTorch."""

    def takes(self, x: Tensor, state: State) -> bool:
        """True for a few sequences on the CPU, in types that fit into float32."""
        if x.device.type != "cpu" or not 0 < len(x) <= MOST or x.dtype not in KINDS:
            return False
        if torch.is_autocast_enabled("cpu"):
            return False
        return all(
            state[name].dtype == torch.float32
            if name.endswith(self.memory)
            else state[name].dtype in KINDS
            for name in self.names
        )

    def step_(self, x: Tensor, state: State) -> Tensor:
        """As ``Backbone.step_``; the entries of ``state`` become new tensors."""
        batch = len(x)
        kinds = [state[name].dtype for name in self.names]
        before = [state[name].float().contiguous() for name in self.names]
        after = _fresh(before)
        # of this call alone: threads share this object; zeros, as what lies behind a row is read
        memory = torch.zeros(batch, self.width)
        memory[:, self.into : self.into + self.size] = x[:, 0]
        whole = torch.empty(self.threads * self.whole, dtype=torch.int8)
        start = state[LENGTH].contiguous() if self.counts else None
        self._step(
            self.ops, len(self.ops), batch, self.threads, self.width, memory.data_ptr(),
            addresses(before), addresses(after), None if start is None else start.data_ptr(),
            whole.data_ptr(), self.whole,
        )  # fmt: skip
        for name, tensor, kind in zip(self.names, after, kinds, strict=True):
            state[name] = tensor if kind == torch.float32 else tensor.to(kind)
        if start is not None:
            state[LENGTH] = start + 1  # [B]
        y = memory[:, self.result : self.result + self.size]  # [B, D]
        return y[:, None].to(x.dtype, copy=True)  # [B, 1, D]


def _fresh(before: list[Tensor]) -> list[Tensor]:
    """Memory for the states after, one piece for all parts of one shape."""
    groups: dict[torch.Size, list[int]] = {}
    for index, tensor in enumerate(before):
        groups.setdefault(tensor.shape, []).append(index)
    after = list(before)
    for shape, indices in groups.items():
        for index, tensor in zip(indices, torch.empty(len(indices), *shape).unbind(), strict=True):
            after[index] = tensor
    return after


def _recipe_of(half: nn.Module) -> Callable[[Recipe, Row], Row]:
    """Return the method that writes a half down.

    Raises ``ValueError`` where there is none, or where a subclass changed what is computed and not
    what is written: ``forward`` and ``step`` are written by ``recipe``, ``NAME`` by ``write_NAME``.
    """
    name = type(half).__name__
    for cls in type(half).__mro__:
        own = {key for key, value in vars(cls).items() if callable(value)}
        if "recipe" in own:
            return half.recipe
        if cls is nn.Module:
            break
        written = {key for key in own if hasattr(half, f"write_{key}")}
        changed = own & {"forward", "step"}
        changed |= {key for key in written if f"write_{key}" not in own}
        if changed:
            raise ValueError(f"there is no recipe of {name}, whose {min(changed)} is its own")
    raise ValueError(f"there is no recipe of {name}")


def _write(stack: Any, recipe: Recipe) -> tuple[Row, Row]:
    """Write down the stack; return the rows of its input and of its result."""
    x = recipe.room(stack.width)
    begin = x
    if stack.norm_in is not None:
        x = norm_of(recipe, stack.norm_in, x)
    names: set[str] = set()
    for depth, block in enumerate(stack._row()):
        recipe.prefix = f"blocks.{depth}."
        names |= {recipe.prefix + name for name in block.state_names}
        for norm, name in block.pairs:
            half: nn.Module = getattr(block, name)
            used = recipe.used
            write = _recipe_of(half)
            recipe.add_into(x, write(recipe, norm_of(recipe, getattr(block, norm), x)))
            kept = [row.place + row.size for row in recipe.shared.values()]
            recipe.used = max(used, *kept, 0)
    if names != set(recipe.parts):
        missing = sorted(names.symmetric_difference(recipe.parts))
        raise ValueError(f"the recipes leave out '{missing[0]}' of the state")
    return begin, norm_of(recipe, stack.norm_out, x)
