"""A backbone under test, and the comparison of its states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wishbone.core.contract.backbone import Backbone, State
from wishbone.core.model.state_batch import pick
from wishbone.core.testing.common import near, require, seeded, trained_looking_

BATCH, LENGTH = 3, 37
LENGTHS = (37, 1, 18)
"""Real positions of the rows of a masked batch."""
NARROW = (torch.float32, torch.bfloat16, torch.float16)


class Case:
    """A backbone that looks trained, vectors for it, and how exact it can be."""

    def __init__(self, cls: Any, config: Any) -> None:
        self.config = config
        self.dtype = torch.float64
        self.model = build(cls, config, torch.float64)
        try:
            with torch.no_grad():
                self.model(self.x(1, 2))
        except RuntimeError:
            self.dtype = torch.float32
            self.model = build(cls, config, torch.float32)
        state = self.model.init_state(1, dtype=self.dtype)
        narrow = any(t.dtype in NARROW for t in state.values())
        self.narrow = ""
        """The reason for a loose tolerance, in words; "" where all is float64."""
        self.inside = False
        """True where only something inside is narrower than x and the state."""
        if narrow or self.dtype in NARROW:
            self.narrow = "its state is float32" if narrow else "it cannot run in float64"
        elif _computes_narrowly(self.model, self.x(1, 2)):
            self.narrow, self.inside = "it computes in float32 inside", True
        # Long chains of float32 operations in another order differ by about 1e-5.
        self.tolerance = 1e-4 if self.narrow else 1e-9

    @property
    def precision(self) -> str:
        """The tolerance and its reason, said with measurements: nothing is loosened silently."""
        why = f" because {self.narrow}" if self.narrow else ""
        return f"{self.tolerance:.0e} is allowed{why}"

    def x(self, batch: int = BATCH, length: int = LENGTH, seed: int = 0) -> Tensor:
        """Draw vectors [B, T, D] like those of an embedding table."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, length, self.model.width)
        vectors = torch.randn(shape, generator=generator, dtype=torch.float64)  # [B, T, D]
        return vectors.to(self.dtype)

    def warm(self, batch: int = BATCH, length: int = 5) -> State:
        """A state that is not the first one."""
        return self.model(self.x(batch, length, seed=1))[1]


class _Kinds(TorchDispatchMode):
    """Notes where float64 becomes less; constants that are made in float32 do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs, outputs = ({t.dtype for t in tree_leaves(x) if isinstance(t, Tensor)}
                       for x in (args, result))  # fmt: skip
        self.narrow |= torch.float64 in inputs and not outputs.isdisjoint(NARROW)
        return result


@torch.no_grad()
def _computes_narrowly(model: Backbone, x: Tensor) -> bool:
    """Return True where a float64 model computes anything in less, such as a norm in float32."""
    with _Kinds() as kinds:
        try:
            model(x)
        # some operation may not run while it is watched, which says nothing of the model
        except Exception:
            return False
    return kinds.narrow


def build(cls: Any, config: Any, dtype: torch.dtype) -> Backbone:
    """A backbone for inference whose weights look trained."""
    with seeded(0):
        model = trained_looking_(cls(config), 0)
    return model.to(dtype).eval()


def row(state: State, index: int) -> State:
    """One sequence of a batch."""
    return pick(state, torch.tensor([index]))


def same_state(a: State, b: State, tolerance: float, what: str) -> float:
    """Compare states; ``a`` may hold zeros behind what ``b`` holds, as padding of its batch."""
    require(a.keys() == b.keys(), f"{what}: entries {sorted(a.keys() ^ b.keys())} differ")
    worst = 0.0
    for name in b:
        cut, behind_end = a[name], 0.0
        for dim, size in enumerate(b[name].shape):
            require(
                cut.ndim == b[name].ndim and cut.shape[dim] >= size, f"{what}: {name} is too small"
            )
            behind = cut.narrow(dim, size, cut.shape[dim] - size)
            behind_end = max(behind_end, behind.abs().max().item() if behind.numel() else 0.0)
            cut = cut.narrow(dim, 0, size)
        require(
            behind_end == 0, f"{what}: {name} holds {behind_end:.1e} behind the end of its sequence"
        )
        worst = max(worst, near(cut, b[name], tolerance, f"{what}, state {name}"))
    return worst
