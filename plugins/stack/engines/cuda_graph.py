"""The engine "graph" of a stack: the steps of its halves in fixed memory, for a graph to replay.

Any halves will do whose state has a constant size and that read no number on the host. Their own
steps are recorded, so a replay gives the numbers of plain PyTorch; what it saves is the time in
which the host starts some hundred kernels. Backbones with kernels of their own (``rwkv7``,
``transformer``) have engines of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wishbone.core.contract.backbone import State
from wishbone.core.model.cuda_graph import Replay

HOST = (
    "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique_consecutive",
    "_unique2", "equal", "lift_fresh",
)  # fmt: skip
"""Operations that wait for numbers of the device or bring some to it, as a graph never can."""
TRIED = 2
"""Rows of the step that is tried before anything is recorded."""


def attach(stack: Any, weights: str) -> Replay:
    """Make the engine. Raises ``ValueError`` with the reason where there is none."""
    if weights != "float32":
        raise ValueError("it reads the weights as they are")
    return Replay(StaticStack(stack))


class StaticStack:
    """A ``wishbone.core.model.cuda_graph.Static``."""

    counter = ""
    narrow = False

    def __init__(self, stack: Any) -> None:
        """Try one step. Raises ``ValueError`` for a stack that no graph can hold."""
        if not stack.caps.constant_state:
            raise ValueError("its state grows with every position")
        if stack.needs_reading:
            raise ValueError("a half asks what each position reads")
        self.stack, self.width = stack, stack.width
        weight = stack.norm_out.weight
        self.device, self.kind = weight.device, weight.dtype
        # a graph reads the memory it was recorded with, also after the stack moved elsewhere
        self.weights = [part.detach() for part in (*stack.parameters(), *stack.buffers())]
        with torch.inference_mode(False), torch.no_grad():
            state = stack.init_state(TRIED, device=self.device)
            self.kinds = {name: part.dtype for name, part in state.items()}
            self._try(state)

    def _try(self, state: State) -> None:
        shapes = {name: part.shape for name, part in state.items()}
        with _Watch():
            self.stack.plain_step(torch.zeros(TRIED, self.width).to(self.device, self.kind), state)
        for name, shape in shapes.items():
            if state[name].shape != shape:
                raise ValueError(f"'{name}' of its state changed its shape")

    def takes(self, x: Tensor, state: State) -> bool:
        """True where x and state are of the types of the stack, on its device."""
        fits = x.device == self.device and x.dtype in (self.kind, torch.float32) and len(x) > 0
        return fits and all(state[name].dtype == kind for name, kind in self.kinds.items())

    def bytes_per_step(self, batch: int, state: State) -> int:
        """Bytes a step must read and write: every weight once, every state in and out."""
        weights = sum(part.numel() * part.element_size() for part in self.weights)
        rows = sum(part[0].numel() * part.element_size() for part in state.values())
        return weights + 2 * batch * rows

    def allocate(self, batch: int, room: int, like: State) -> State:
        """As ``Static.allocate``."""
        return {
            name: torch.zeros(batch, *part.shape[1:], dtype=part.dtype, device=part.device)
            for name, part in like.items()
        }

    def step(self, x: Tensor, state: State, limit: int) -> Tensor:
        """As ``Static.step``."""
        own = dict(state)
        y = self.stack.plain_step(x.to(self.kind), own)  # [B, D]
        for name, part in state.items():
            if own[name] is not part:
                part.copy_(own[name])
        return y


class _Watch(TorchDispatchMode):
    """Raises ``ValueError`` for what a graph cannot hold, on any device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in HOST:
            name = func.overloadpacket.__name__
            raise ValueError(f"one of its halves needs the host in every step ({name})")
        return func(*args, **(kwargs or {}))
