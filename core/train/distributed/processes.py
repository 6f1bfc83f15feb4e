"""One process or many: the environment that torchrun sets, and messages between processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from wishbone.core.model.device import find_device


@dataclass(frozen=True)
class ProcessGroup:
    """All processes of a run, seen from this one; a group of one sends nothing."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True in the process that writes files and prints."""
        return self.rank == 0

    def sum_(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def sum_gradients_(self, model: nn.Module) -> None:
        """Every gradient becomes its sum over all processes, in one message."""
        if self.size == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters])  # [all parameters]
        dist.all_reduce(flat)
        begin = 0
        for parameter in parameters:
            end = begin + parameter.numel()
            parameter.grad.copy_(flat[begin:end].view_as(parameter))
            begin = end

    def agree(self, flag: bool) -> bool:
        """The leading process's ``flag``, so that all stop in the same step."""
        return bool(self.broadcast(int(flag)))

    def broadcast(self, number: int) -> int:
        """The leading process's ``number``."""
        if self.size == 1:
            return number
        message = torch.tensor([number], device=self.device)  # [1]
        dist.broadcast(message, 0)
        return int(message.item())

    def barrier(self) -> None:
        """Wait until all processes have come to this point."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_processes(device: str = "auto") -> Iterator[ProcessGroup]:
    """Join the others if torchrun started this process, and leave them at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = str(find_device(device))
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        group = ProcessGroup(rank, size, torch.device(device))
        yield group
        # nobody leaves while another still writes: gloo may abort whoever is left behind
        group.barrier()
    finally:
        if size > 1:
            dist.destroy_process_group()
